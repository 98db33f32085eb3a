"""Which encoding a text in Latin letters is in, as its accents tell.

Each of the encodings makes letters of nearly all bytes, so that none is ever wrong by itself. But a
text has the accents of its language: read as something else, Polish has a superscript in the middle
of a word, and Czech a Danish letter beside an Italian one.
"""

from collections import Counter

_ALPHABETS = {
    "cp1252": (
        "äöüß",  # German
        "àâæçèéêëîïôùûüœÿ",  # French
        "áéíñóúü¡¿ªº",  # Spanish
        "àáâãçéêíóôõúüªº",  # Portuguese
        "àèéìíîòóùú",  # Italian
        "äåæéöøü",  # Danish, Norwegian, Swedish, Finnish
        "áæéíðóöúýþ",  # Icelandic
        "áèéëíïóöúü",  # Dutch
        "àçèéíïòóúü·",  # Catalan
    ),
    "cp1250": (
        "ąćęłńóśźż",  # Polish
        "áéíóúýčďěňřšťůž",  # Czech
        "áäéíóôúýčďĺľňŕšťž",  # Slovak
        "áéíóöúüőű",  # Hungarian
        "ćčđšž",  # Croatian, Bosnian, Slovene, Serbian
        "âîăşţ",  # Romanian
    ),
    "cp1254": ("âçîöûüğışİ",),  # Turkish
    "cp1257": (
        "ąčėęįšūųž",  # Lithuanian
        "āčēģīķļņšūž",  # Latvian
        "äõöüšž",  # Estonian
    ),
}
_ENCODINGS = {
    "cp1252": ("cp1252",),
    "cp1250": ("cp1250", "iso8859-2"),
    "cp1254": ("cp1254",),
    "cp1257": ("cp1257", "iso8859-13"),
}
USUAL = "cp1252"
_ASCII = bytes(range(128))
_FEW = 12
"""Accents that are too few to tell anything."""
_MARGIN = 0.05
"""By so much of all accents another encoding must explain more than the usual one."""
_NEARLY_ALL = 0.97


def latin_encoding(words: bytes) -> str:
    """The encoding of words with accents: cp1252 unless the accents tell otherwise.

    Args:
        words: In an encoding that is ASCII but for its accents.
    """
    accents = words.translate(None, _ASCII)
    if len(accents) < _FEW:
        return USUAL
    counted = Counter(accents)
    told = {
        encoding: max(_share(counted, encoding, letters) for letters in alphabets)
        for family, alphabets in _ALPHABETS.items()
        for encoding in _ENCODINGS[family]
    }
    best = max(told, key=lambda encoding: told[encoding])  # of equals, the first
    sure = told[best] >= _NEARLY_ALL and told[best] - told[USUAL] > _MARGIN
    return best if sure else USUAL


def _share(counted: Counter[int], encoding: str, letters: str) -> float:
    """How many of the accents are those of an alphabet."""
    found = ((bytes([code]).decode(encoding, "replace"), times) for code, times in counted.items())
    own = sum(times for one, times in found if one in letters or one.lower() in letters)
    return own / counted.total()
