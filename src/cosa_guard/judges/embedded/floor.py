"""The floor ids: a category at a low threshold together with words of age, or of scale.

No labelled rows of sexual content about minors exist here, on purpose, so the category alone cannot be trained; the
words make the low threshold bearable. Recall is measured on public labels only and stands in the model card.
"""

from __future__ import annotations

import re

__all__ = ["AGE", "SCALE"]

_SPELT = (
    r"(?<!ty[\s-])(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven)teen)"
)
"""Years below eighteen."""

AGE = re.compile(
    r"\b(?:child(?:ren|hood|like)?|kids?|minors?|under-?\s?age[d]?|toddlers?|infants?|bab(?:y|ies)|"
    r"(?:pre-?)?teens?|tweens?|teenagers?|teenaged?|adolescents?|juveniles?|lol[il](?:ta?|con)?s?|shota|jailbait|pa?edo\w*|"
    r"schoolgirls?|schoolboys?|school\s?(?:girl|boy|kid|child)\w*|"
    r"little (?:girl|boy|sister|brother)s?|young (?:girl|boy)s?|"
    r"(?:pupil|student)s? (?:of|aged) (?:[5-9]|1[0-7])|daughters?|nieces?|kindergart\w+|"
    r"(?:[1-9]|1[0-7])[\s-]?(?:years?|yrs?|yo|y/o)(?:[\s-]?old)?|(?:aged?|age of) (?:[1-9]|1[0-7])\b|"
    rf"{_SPELT}[\s-]years?[\s-]old|(?:aged?|age of) {_SPELT}|"
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)[\s-]graders?|"
    r"kinder|mineurs?|enfants?|ni[nñ][oa]s?|menores?|crian[cç]as?)\b",
    re.IGNORECASE,
)
"""A person who may be a minor is spoken of."""

SCALE = re.compile(
    r"\b(?:nerve (?:agent|gas)\w*|sarin|novichok|vx|mustard gas|chlorine gas|"
    r"chemical (?:weapon|warfare|attack|agent)s?|biological (?:weapon|warfare|attack|agent)s?|"
    r"bio-?weapons?|bioterror\w*|anthrax|smallpox|ebola|plague|ricin|botulin\w*|cyanide|weaponi[sz]\w+|pathogens?|pandemic|"
    r"dirty bombs?|radiological|nuclear (?:weapon|bomb|device|warhead|explosive|meltdown)s?|nukes?|"
    r"atom(?:ic)? bombs?|hydrogen bombs?|uranium|plutonium|fissile|weapons? of mass|"
    r"mass (?:casualt\w+|murder|killing|poisoning|destruction)|"
    r"(?:poison|contaminate|infect)\w* (?:the |a |an |our |their )?(?:\w+ )?"
    r"(?:water|food|reservoir|city|town|population)\w*|"
    r"(?:water|food) suppl\w+|kill (?:thousands|millions|hundreds|everyone|everybody|as many))\b",
    re.IGNORECASE,
)
"""Means that can kill many are spoken of."""
