"""Names of languages, as BCP 47 wants them."""

import re

_TWO_LETTERS: dict[str, str] = dict(
    re.findall(
        r"(\w+)=(\w+)",
        "afr=af aka=ak amh=am ara=ar aze=az bel=be ben=bn bul=bg cat=ca ces=cs cmn=zh cym=cy "
        "dan=da deu=de ell=el eng=en epo=eo est=et fas=fa fin=fi fra=fr guj=gu heb=he hin=hi "
        "hrv=hr hun=hu hye=hy ind=id ita=it jav=jv jpn=ja kan=kn kat=ka khm=km kor=ko lat=la "
        "lav=lv lit=lt mal=ml mar=mr mkd=mk mya=my nep=ne nld=nl nob=nb nor=no ori=or pan=pa "
        "pes=fa pol=pl por=pt ron=ro rus=ru sin=si slk=sk slv=sl sna=sn spa=es srp=sr swe=sv "
        "tam=ta tel=te tgl=tl tha=th tuk=tk tur=tr ukr=uk urd=ur uzb=uz vie=vi yid=yi zho=zh "
        "zul=zu ",
    )
)
_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}")


def language_tag(name: object) -> str | None:
    """A BCP 47 tag of what a document or a detector says, `None` if it says nothing usable."""
    if not isinstance(name, str):
        return None
    tag = name.strip().replace("_", "-")
    if not _TAG.fullmatch(tag):
        return None
    first, dash, rest = tag.partition("-")
    return _TWO_LETTERS.get(first.lower(), first.lower()) + dash + rest
