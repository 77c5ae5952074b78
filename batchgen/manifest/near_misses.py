"""Columns whose names look like a column of the contract that the manifest lacks.

`seeds`, `Width` or `num_inference_steps` would otherwise travel along, and the job's default would
stand in for what the user wrote. Such a column is asked about: it is used, or it travels, once
`[manifest] columns` says so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

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
# A column of this name holds a picture, not the number of pictures.
_PICTURE = "image"
# Shorter names are one slip away from too many words.
_LONG_ENOUGH = 5


def near_misses(
    names: Iterable[str], used: Mapping[str, str], mapping: Mapping[str, str]
) -> dict[str, list[str]]:
    """Find columns that would travel along, though they may be meant for the contract.

    :param names: all columns of the manifest.
    :param used: column of the contract → column of the manifest that is used as it.
    :param mapping: `[manifest] columns`: what it names is no question any more.
    :returns: column of the manifest → columns of the contract, which the manifest lacks.
    """
    lacking = [name for name in COLUMNS if name not in used and name not in mapping]
    wanted = {name: _spellings(name) for name in lacking}
    taken = {*used.values(), *mapping}
    found = {}
    for name in names:
        if name in taken or name.casefold() == _PICTURE:
            continue
        key = _key(name)
        meant = [one for one in lacking if key in wanted[one] or _one_slip(key, _key(one))]
        if meant:
            found[name] = meant
    return found


def _spellings(name: str) -> set[str]:
    """Return the keys of all names that may mean a column of the contract."""
    known = {_key(name), *_SYNONYMS.get(name, "").split()}
    doubtful = (keys.split() for meant, keys in _DOUBTFUL.items() if name in meant)
    return known.union(*doubtful)


def _key(name: str) -> str:
    """Spell a name in lower case, without spaces, punctuation, accents and a plural's s."""
    letters = unicodedata.normalize("NFKD", name).casefold()
    return re.sub(r"[\W_]+", "", letters).removesuffix("s")


def _one_slip(typed: str, meant: str) -> bool:
    """Tell whether one letter is missing or too many, or two neighbours are exchanged."""
    if len(meant) < _LONG_ENOUGH or abs(len(typed) - len(meant)) > 1:
        return False
    if len(typed) == len(meant):
        differ = [i for i, (one, two) in enumerate(zip(typed, meant, strict=True)) if one != two]
        swapped = len(differ) == 2 and differ[1] == differ[0] + 1
        return swapped and typed[differ[0]] + typed[differ[1]] == (
            meant[differ[1]] + meant[differ[0]]
        )
    longer, shorter = sorted((typed, meant), key=len, reverse=True)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
