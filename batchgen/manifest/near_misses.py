"""Columns whose names look like a column of the contract that the manifest lacks.

`seeds`, `Width` or `num_inference_steps` would otherwise travel along, and the job's default would
stand in for what the user wrote. Such a column is asked about: it is used, or it travels, once
`[manifest] columns` says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from string import ascii_lowercase

from batchgen.manifest.contract import COLUMNS

# Names that diffusers, kohya-ss, ComfyUI and published data sets use, spelled as `_key` does.
_SYNONYMS: dict[str, str] = {
    "prompt": "text txt caption captiontext textprompt prompttext positive positiveprompt "
    "inputprompt instruction description alttext",
    "negative_prompt": "negative neg negprompt negativetext negativecaption uncond unconditional "
    "uncondprompt unconditionalprompt",
    "seed": "randomseed rngseed manualseed noiseseed generatorseed samplingseed",
    "width": "imagewidth imgwidth widthpx widthpixel pixelwidth targetwidth",
    "height": "imageheight imgheight heightpx heightpixel pixelheight targetheight",
    "steps": "numstep nstep inferencestep numinferencestep samplestep samplingstep "
    "numsamplingstep denoisingstep numdenoisingstep diffusionstep ddimstep stepcount",
    "guidance": "guidancescale embeddedguidance embeddedguidancescale fluxguidance "
    "distilledguidance distilledguidancescale distilledcfg distilledcfgscale",
    "true_cfg": "truecfgscale realcfg realcfgscale trueguidance trueguidancescale",
    "images": "numimage nimage numimagesperprompt imagesperprompt numimageperprompt "
    "imageperprompt numberofimage imagecount numsample nsample samplesperprompt numoutput "
    "numrepeat batchcount",
}
# Names that may mean either of two columns.
_DOUBTFUL: dict[tuple[str, ...], str] = {
    ("width", "height"): "size imagesize imgsize targetsize resolution imageresolution dimension",
    ("guidance", "true_cfg"): "cfg cfgscale classifierfreeguidance classifierfreeguidancescale "
    "unconditionalguidancescale",
}
_PUNCTUATION = re.compile(r"[\W_]+")
# A column of this name holds a picture, not the number of pictures.
_PICTURE = "image"
# Shorter names are one slip away from too many words; in long ones, a wrong letter is a slip, too.
_SLIPS_FROM, _WRONG_LETTERS_FROM = 5, 7


def near_misses(
    names: Iterable[str], used: Mapping[str, str], mapping: Mapping[str, str]
) -> dict[str, list[str]]:
    """Find columns that would travel along, though they may be meant for the contract.

    :param names: all columns of the manifest.
    :param used: column of the contract → column of the manifest that is used as it.
    :param mapping: `[manifest] columns`: what it names is no question any more.
    :returns: column of the manifest → columns of the contract, which the manifest lacks.
    """
    meant_by: dict[str, list[str]] = defaultdict(list)
    for name in COLUMNS:
        if name not in used and name not in mapping:
            for spelling in {*_spellings(name), *_slips(_key(name))}:
                meant_by[spelling].append(name)
    taken = {*used.values(), *mapping}
    keys = {name: _key(name) for name in names if name not in taken}
    return {
        name: meant_by[key]
        for name, key in keys.items()
        if key in meant_by and name.casefold() != _PICTURE
    }


def _spellings(name: str) -> set[str]:
    """Return the keys of all names that may mean a column of the contract."""
    known = {_key(name), *_SYNONYMS.get(name, "").split()}
    doubtful = (keys.split() for meant, keys in _DOUBTFUL.items() if name in meant)
    return known.union(*doubtful)


def _key(name: str) -> str:
    """Spell a name in lower case, without spaces, punctuation, accents and a plural's s."""
    letters = name if name.isascii() else unicodedata.normalize("NFKD", name)
    return _PUNCTUATION.sub("", letters.casefold()).removesuffix("s")


def _slips(word: str) -> Iterator[str]:
    """Spell a word with one letter missing, too many or wrong, or two neighbours exchanged."""
    if len(word) < _SLIPS_FROM:
        return
    for i in range(len(word)):
        yield word[:i] + word[i + 1 :]
        yield word[:i] + word[i : i + 2][::-1] + word[i + 2 :]
    for i in range(len(word) + 1):
        yield from (word[:i] + letter + word[i:] for letter in ascii_lowercase)
    for i in range(len(word) if len(word) >= _WRONG_LETTERS_FROM else 0):
        yield from (word[:i] + letter + word[i + 1 :] for letter in ascii_lowercase)
