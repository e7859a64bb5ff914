"""Whether the networks can read a text at all: to them a request in Korean is a row of unknown words, like no risk.

They learnt English, and a little German, Spanish, French and Portuguese. What is written in another script, or in words
that the vocabulary lacks, must not count as examined. Whether a text is read is no part of its risks: what shows in it
all the same is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cosa_guard.folding import fold
from cosa_guard.judges.embedded.wordpiece import lowered

__all__ = ["unread"]

_OTHER = 12
"""Letters of other scripts that make a text unread: a sentence, where a name would be shorter."""
_DENSE_LETTERS = 3
"""Letters that an ideograph or a syllable counts for: a request of six ideographs is a whole sentence."""
_FEWEST = 5
"""Words that say whether a text is in a known language: fewer may all be names."""
_RUN = 12
"""Words in a row that are looked at together: English in front must not hide what follows."""
_KNOWN = 0.2
"""Share of a run that is known, below which it is unread. Measured: below it are 3 of 3,348 harmless English prompts
and most sentences in Turkish, Finnish, Polish, Vietnamese or Swahili; above it 98 % of the German rows of
`languages.jsonl.gz`, 91 % of the French, 87 % of the Spanish, 76 % of the Portuguese. Italian passes too."""

_TAGS = 4
"""Hidden characters that may spell something: flags have their own, left out before."""

_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007f]{2,7}")
_HIDDEN = re.compile("[\U000e0020-\U000e007e\U000e0100-\U000e01ef]")
"""Tag characters and variation selectors: invisible, and to many a language model a text like any other."""
_LETTERS = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
"""Shorter ones say nothing: every pair of letters is a word of some vocabulary."""
_STRANGE = re.compile("[^\x00-\u036f\u1d00-\u1dbf\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uab30-\uab6f]")
"""Letters of other scripts than Latin."""
_DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_GREEK = re.compile("[\u0370-\u03ff]")
# Words between words, folded, of the languages that the networks know a little: the vocabulary lacks most of them.
_BETWEEN = frozenset(
    """
    aber alle als auch auf aus bei bitte das dein deine dem den der des dich die diese diesen dieser dieses dir doch ein
    eine einem einen einer etwas euch fur gibt habe haben hat hier ich ihm ihn ihr ihre immer ist jetzt kann kein keine
    mehr mein meine meinem meinen meiner mich mir mit nach nicht noch nur oder ohne schon sehr sein seine sich sie sind
    soll uber und uns unter vom von war waren was wem wenn wer werden wie wieder will wir wird zum zur
    cada como con cuando del desde donde entre era esa ese eso esta estan este esto estoy fue hacer hasta hay las les
    los mas mis muy nada otra otro para pero por porque puedo que quien quiero ser sin sobre son sus tambien tengo todo
    todos una uno unos
    aussi aux avec avoir bien ces cette comment dans des dois elle elles encore est etre fait faire ils les leur leurs
    mais meme mes mon nous par pas peut plus pour quand que quel quelle qui quoi sans ses son sont suis sur tes ton tous
    tout tres une veux vous
    ate com das dos ela elas ele eles essa esse estou fazer fica foi isso isto mais mas meu meus minha muito nao nas nos
    num numa onde pela pelo pode quem quero sao sem seu seus sua tem uma vou voce
    """.split()  # noqa: SIM905  # a list of strings would take two hundred lines
)


def unread(text: str, knows: Callable[[str], bool]) -> str:
    """Why the networks cannot read a text; nothing where they can.

    Args:
        text: as it came. A decoded form that reads well makes nothing legible of what stands beside it.
        knows: whether a lower-case word is in the vocabulary as a whole.
    """
    if not text.isascii() and len(_HIDDEN.findall(_FLAG.sub("", text))) >= _TAGS:
        return "hidden characters"
    if not text.isascii() and _in_another_script(text):
        return "a script that the networks do not know"
    if _in_another_language(text, knows):
        return "words that the networks do not know"
    return ""


def _in_another_script(text: str) -> bool:
    strange = letters = 0
    for word in _LETTERS.findall(text):
        letters += len(word)
        if not word.isascii():
            strange += _strange(word)
    return strange >= _OTHER or 2 * strange > letters


def _strange(word: str) -> int:
    """Letters of other scripts in a word that folding does not make Latin: look-alikes among Latin letters are read."""
    left = _STRANGE.findall(fold(word).text)
    if not left or (len(left) == 1 and _GREEK.match(left[0])):  # a lone Greek letter is a formula's
        return 0
    return len(_STRANGE.findall(word)) + (_DENSE_LETTERS - 1) * len(_DENSE.findall(word))


def _in_another_language(text: str, knows: Callable[[str], bool]) -> bool:
    known = [_known(word, knows) for word in _WORD.findall(text)]
    size = min(len(known), _RUN)
    if size < _FEWEST:
        return False
    here = sum(known[:size])
    least = here
    for new, old in zip(known[size:], known, strict=False):  # the second list is longer: it is what leaves the run
        here += new - old
        least = min(least, here)
    return least < _KNOWN * size


def _known(word: str, knows: Callable[[str], bool]) -> bool:
    if word.isascii():
        word = word.lower()
        return word in _BETWEEN or knows(word)
    folded = lowered(word)
    # Where accents fold away, what is left may be an English word by chance; look-alikes are chosen to make one.
    return folded in _BETWEEN or (bool(_STRANGE.search(word)) and knows(folded))
