"""The floor ids: a category at a low threshold together with words of age, or of scale.

No labelled rows of sexual content about minors exist here, on purpose, so the category alone cannot be trained; the
words make the low threshold bearable. Recall is measured on public labels only and stands in the model card.
"""

from __future__ import annotations

import re

__all__ = ["AGE", "SCALE", "Words", "words"]


def words(text: str) -> str:
    """The text with one space between its words, whatever stood there: spaces, line breaks, hyphens, underscores."""
    return " ".join(text.replace("-", " ").replace("_", " ").split())


class Words:
    """A pattern over words.

    Not a bare `re.Pattern`, so that no caller can forget `words`. Gaps of any length inside the pattern instead would
    take quadratic time, for `_` is a letter to it and a gap as well.

    Args:
        pattern: what is meant, in lower case and with single spaces as the only gaps.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern, re.IGNORECASE)

    def search(self, text: str) -> re.Match[str] | None:
        """The first match; its positions are those of `words(text)`."""
        return self._pattern.search(words(text))


_SPELT = r"(?<!ty )(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven)teen)"
"""Years below eighteen."""

AGE = Words(
    r"\b(?:child(?:ren|hood|like)?|kids?|minors?|under ?aged?|toddlers?|infants?|bab(?:y|ies)|"
    r"(?:pre ?)?teens?|tweens?|teenagers?|teenaged?|adolescents?|juveniles?|lol[il](?:ta?|con)?s?|shota|jailbait|"
    r"pa?edo\w*|schoolgirls?|schoolboys?|school ?(?:girl|boy|kid|child)\w*|"
    r"little (?:girl|boy|sister|brother)s?|young (?:girl|boy)s?|"
    r"grand(?:daughter|son|child|children)s?|high school(?:er)?s?|"
    r"(?:pupil|student)s? (?:of|aged) (?:[5-9]|1[0-7])|daughters?|nieces?|kindergart\w+|"
    r"(?:[1-9]|1[0-7]) ?(?:years?|yrs?|yo|y/o|y)(?: ?old)?|(?:aged?|age of) (?:[1-9]|1[0-7])\b|"
    rf"{_SPELT} years? old|(?:aged?|age of) {_SPELT}|"
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth) graders?|"
    r"kinder|mineurs?|enfants?|ni[nñ][oa]s?|menores?|crian[cç]as?)\b"
)
"""A person who may be a minor is spoken of."""

SCALE = Words(
    r"\b(?:nerve (?:agent|gas)\w*|sarin|novichok|vx|mustard gas|chlorine gas|"
    r"(?:bio)?chemical (?:weapon|warfare|attack|agent)s?|biological (?:weapon|warfare|attack|agent)s?|"
    r"bio ?weapons?|bioterror\w*|anthrax|smallpox|ebola|plague|ricin|botulin\w*|cyanide|weaponi[sz]\w+|pathogens?|"
    r"pandemic|dirty bombs?|radiological|nukes?|"
    r"nuclear (?:weapon|bomb|device|warhead|explosive|meltdown|reactor|plant)s?|"
    r"atom(?:ic)? bombs?|hydrogen bombs?|uranium|plutonium|fissile|weapons? of mass|"
    r"mass (?:casualt\w+|murder|killing|poisoning|destruction)|"
    r"(?:poison|contaminate|infect)\w* (?:the |a |an |our |their )?(?:\w+ )?"
    r"(?:water|food|reservoir|city|town|population)\w*|"
    r"(?:deadly|lethal|engineered|airborne) (?:virus\w*|bacteri\w+|toxins?)|genetically (?:engineer|modif)\w+|"
    r"virus(?:es)? (?:that|to)|water contamination|"
    r"(?:water|food) suppl\w+|kill (?:thousands|millions|hundreds|everyone|everybody|as many))\b"
)
"""Means that can kill many are spoken of."""
