"""CSV files in other encodings, and what marks their delimiters and quotes."""

import csv
import io

import pytest
from csv_tables import table, write

from nvisy_connectors.object.formats.csv_dialect import find_encoding, is_surely_utf8, settle
from nvisy_connectors.object.formats.csv_options import CsvReadOptions

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"a;b\n1,5;2,3\n", (";", '"', None)),
        (b"a\tb\n1,5\t2\n", ("\t", '"', None)),
        (b"a|b|c\n1|2|3\n", ("|", '"', None)),
        (b"a,b\n1,2\n", (",", '"', None)),
        (b"a\n1\n2\n", (",", '"', None)),
        (b"a,b\n'1','x,y'\n'2','z'\n", (",", "'", None)),
        (b"a,b\n1,it's\n2,'tis\n3,x\n", (",", '"', None)),
        (b'a,b\n"1","say ""x, y"""\n', (",", '"', None)),
        (b'a,b\n"1","say \\"x, y\\" to"\n"2","z"\n', (",", '"', "\\")),
        (b'a,b\n"1","C:\\"\n"2","z"\n', (",", '"', None)),
        (b'a,b\n"x;y;z","1"\n"u;v;w","2"\n', (",", '"', None)),
        (b"", (",", '"', None)),
    ],
)
def test_marks_are_found(data, wanted):
    found = settle(data, CsvReadOptions(), whole=True)
    assert (found.delimiter, found.quote, found.escape) == wanted


POLISH = "Łukasz Żółtowski;Łódź\nMałgorzata Wiśniewska;Kraków\nGrażyna Dąbek;Częstochowa\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("name;stadt\nMüller;Köln\nStraße;5 €\n", "cp1252"),
        ("name;x\nИван Иванович;Санкт-Петербург\nОльга Сергеевна;Москва\n" * 5, "cp1251"),  # noqa: RUF001 - it is Russian
        ("名前,都市\n田中太郎さん,東京都庁舎\n鈴木一郎さん,大阪府庁舎\n" * 5, "cp932"),
        ("a,b\n1,ü\n", "utf-8"),
        ("שם,עיר\nדוד ירושלמי,ירושלים\nשרה כהן,תל אביב\n" * 3, "cp1255"),  # noqa: RUF001 - it is Hebrew
        ("اسم,مدينة\nمحمد,القاهرة\nفاطمة,دبي\n" * 3, "cp1256"),  # noqa: RUF001 - it is Arabic
        ("имя;город\nИван Иванов;Москва\nМария;Казань\nОльга;Пермь\n" * 3, "koi8-r"),  # noqa: RUF001
        *((f"imię;miasto\n{POLISH}", encoding) for encoding in ("cp1250", "iso8859-2")),
        ("jméno;věc\nJiří Dvořák;příliš žluťoučký kůň\nTomáš;úpěl ďábelské ódy\n", "cp1250"),
        ("név;tárgy\nGyőző;árvíztűrő tükörfúrógép\nErzsébet;hűtő és fűtő\n", "cp1250"),
        ("ad;şehir\nAyşe Yılmaz;İstanbul\nÇağrı Şahin;Eskişehir\nIşık;Kırşehir\n", "cp1254"),  # noqa: RUF001 - Turkish
        (
            "vardas;miestas\nŠarūnas;Šiauliai\nEglė;Panevėžys\nGintarė;Kėdainiai\nČesė;ąęįų\n",
            "cp1257",
        ),
        ("nom;ville\nÉléonore;Besançon\nRené;Châlons\nJérôme;Évreux\nZoé;Nîmes\n" * 3, "cp1252"),
        (
            "navn;by\nSøren Ærø;Århus\nJürgen Groß;Köln\nJosé Nuñez;Málaga\nRenée;Liège\n" * 3,
            "cp1252",
        ),
        (
            "nome;cidade\nJoão;São Paulo\nConceição;Brasília\nAndré;Goiânia\nÂngela;Belém\n",
            "cp1252",
        ),
    ],
)
async def test_encodings_are_found(tmp_path, text, encoding):
    path = write(tmp_path / "x.csv", text.encode(encoding))
    found, _ = await table(path, columns=None)
    wanted = list(csv.reader(io.StringIO(text), delimiter=";" if ";" in text else ","))[1:]
    assert [[str(value) for value in row.values()] for row in found] == wanted


async def test_each_file_may_be_utf8(tmp_path):
    text = f"imię;miasto\n{POLISH}"
    for name, encoding in (("a", "cp1250"), ("b", "utf-8"), ("c", "cp1250"), ("d", "utf-8-sig")):
        write(tmp_path / f"{name}.csv", text.encode(encoding))
    wanted = [line.split(";") for line in POLISH.splitlines()]
    for params in ({}, {"batch_bytes": 40}):
        found, _ = await table(tmp_path, columns=None, **params)
        assert [list(row.values()) for row in found] == wanted * 4


@pytest.mark.parametrize("batch_bytes", [25, 8 << 20])
async def test_an_accent_at_the_end_is_no_utf8(tmp_path, batch_bytes):
    """Of three bytes in UTF-8 the first one is a letter in other encodings."""
    for name, text in (
        ("a", "name;ort\nMüller;Köln\n"),
        ("b", "name;ort\nx;Café"),
        ("c", "name;ort\n" + "abc;de\n" * 2 + "é;y\n"),
    ):
        write(tmp_path / f"{name}.csv", text.encode("cp1252"))
    found, _ = await table(tmp_path, columns=None, batch_bytes=batch_bytes)
    wanted = [("Müller", "Köln"), ("x", "Café"), *[("abc", "de")] * 2, ("é", "y")]
    assert [tuple(row.values()) for row in found] == wanted


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_letter_that_the_sample_cuts_may_be_utf8(cut):
    data = "name;ort\nü;x\n😀".encode()[: -4 + cut]
    assert is_surely_utf8(data, whole=False)
    assert not is_surely_utf8(data, whole=True)
    assert find_encoding(data, whole=False) == "utf-8"
    alone = "name;ort\n😀".encode()[: -4 + cut]
    assert not is_surely_utf8(alone, whole=False)


@pytest.mark.parametrize("batch_bytes", range(20, 60))
async def test_a_file_is_utf8_wherever_its_sample_is_cut(tmp_path, batch_bytes):
    for name, encoding in (("a", "cp1252"), ("b", "utf-8")):
        text = "näme;ört\n" + "ü€😀;ß\n" * 3
        write(tmp_path / f"{name}.csv", text.encode(encoding, "replace"))
    found, _ = await table(tmp_path, columns=None, batch_bytes=batch_bytes)
    assert [tuple(row.values()) for row in found] == [("ü€?", "ß")] * 3 + [("ü€😀", "ß")] * 3


@pytest.mark.parametrize("batch_bytes", [25, 8 << 20])
async def test_the_encoding_that_is_named_is_the_one(tmp_path, batch_bytes):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv", "nÃ¤me;ort\nÃ¼;KÃ¶ln\n".encode("cp1252"))
    params = {"csv": {"encoding": "cp1252"}, "batch_bytes": batch_bytes}
    found, _ = await table(tmp_path, columns=None, **params)
    assert found == [{"nÃ¤me": "Ã¼", "ort": "KÃ¶ln"}] * 2


async def test_of_one_file_an_accent_at_the_end_is_no_utf8(tmp_path):
    write(tmp_path / "x.csv", "name;ort\nx;Café".encode("cp1252"))
    found, _ = await table(tmp_path, columns=None)
    assert [tuple(row.values()) for row in found] == [("x", "Café")]
