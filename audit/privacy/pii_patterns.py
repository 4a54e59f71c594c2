"""Personal data that shows by its form: what it looks like, and the check digits that tell it from any number.

Nothing here keeps what it finds: a finding is told by its kind, its place and a mask.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

_BEFORE = r"(?<![^\W_])(?<![0-9][ .\-/])(?<![+.])"
_AFTER = r"(?![^\W_])(?![ .\-/]?[0-9])"
_DIGITS = re.compile(r"[0-9]")
_LETTERS = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Kind:
    """One kind of personal data.

    Attributes:
        pattern: its layout; what fits is a candidate.
        valid: whether a candidate is one.
        checked: whether check digits tell it from random digits in the same layout.
    """

    name: str
    title: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    checked: bool = True

    def candidates(self, text: str) -> Iterator[re.Match[str]]:
        """What has the layout, from left to right; candidates that do not hold may overlap what comes after."""
        at = 0
        while match := self.pattern.search(text, at):
            yield match
            at = match.end() if self.valid(match[0]) else match.start() + 1


@dataclass(frozen=True)
class Found:
    """One place where a kind occurs. `value` is in one spelling, for comparison; it is never to be written."""

    kind: str
    value: str
    masked: str


def scan(text: str, kinds: Sequence[Kind], candidates: Mapping[str, set[str]] | None = None) -> Iterator[Found]:
    """Personal data in a text; where kinds overlap the earlier one of `kinds` has it.

    Args:
        candidates: kind → where to put what has its layout, valid or not.
    """
    taken: list[tuple[int, int]] = []
    for kind in kinds:
        seen = (candidates or {}).get(kind.name)
        for match in kind.candidates(text):
            if seen is not None:
                seen.add(match[0])
            start, stop = match.span()
            if kind.valid(match[0]) and all(stop <= a or b <= start for a, b in taken):
                taken.append((start, stop))
                yield Found(kind.name, one_spelling(match[0]), mask(match[0]))


def one_spelling(value: str) -> str:
    """The same for every way to set spaces, dots and dashes, and for both cases."""
    return value.casefold() if "@" in value or ":" in value else re.sub(r"[ .()\-/]", "", value).upper()


def mask(value: str) -> str:
    """Enough to find it again, too little to use: the layout with its last two characters; of e-mail the first and the top domain."""
    if "@" in value:
        head, _, top = value.rpartition(".")
        return head[0] + _LETTERS.sub("*", head[1:]) + "." + top
    return _LETTERS.sub("*", value[:-2]) + value[-2:]


def chance_rate(kind: Kind, candidates: Sequence[str], draws: int, seed: int) -> int:
    """How many of `draws` strings are valid that have a candidate's layout and letters, and random digits."""
    rng = random.Random(seed)
    hits = 0
    for _ in range(draws):
        layout = rng.choice(candidates)
        hits += kind.valid(_DIGITS.sub(lambda _: rng.choice("0123456789"), layout))
    return hits


# --- check digits ---


def digits_of(value: str) -> list[int]:
    """Its digits, in order."""
    return [int(one) for one in _DIGITS.findall(value)]


def luhn(value: str) -> bool:
    """ISO/IEC 7812-1, annex B: every second digit from the right is doubled, its digits added; the sum is a multiple of 10."""
    digits = digits_of(value)[::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * one, 10)) for one in digits[1::2])) % 10 == 0


def mod_97(value: str) -> int:
    """ISO/IEC 7064 MOD 97-10 of letters (A = 10 … Z = 35) and digits."""
    return int("".join(str(int(one, 36)) for one in value)) % 97


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(one * weight for one, weight in zip(digits, weights, strict=False))


def _is_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


# --- kinds ---

_EMAIL = re.compile(
    r"(?<![\w.+\-])[\w!#$%&'*+/=?^`{|}~\-]{1,64}(?:\.[\w!#$%&'*+/=?^`{|}~\-]{1,64}){0,8}@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}"
    r"(?![\w\-])"
)
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js"}
"""Endings of pictures for dense screens (``logo@2x.png``), none of them a top-level domain."""


def _email(value: str) -> bool:
    """RFC 5321: at most 64 characters before the @, 255 after it."""
    local, _, domain = value.rpartition("@")
    return len(local) <= 64 and len(domain) <= 255 and domain.rsplit(".", 1)[-1].lower() not in _FILES


_CARD = re.compile(rf"{_BEFORE}[2-6][0-9]{{3}}(?:[ \-]?[0-9]){{9,15}}{_AFTER}")
_ISSUERS = (
    ((4, 4), (13, 16, 19)), ((51, 55), (16,)), ((2221, 2720), (16,)), ((34, 34), (15,)), ((37, 37), (15,)), ((300, 305), (14,)),
    ((36, 36), (14,)), ((38, 39), (14,)), ((3528, 3589), (16, 17, 18, 19)), ((6011, 6011), (16, 17, 18, 19)),
    ((644, 659), (16, 17, 18, 19)), ((62, 62), (16, 17, 18, 19)),
)  # fmt: skip
"""First digits and lengths of Visa, Mastercard, American Express, Diners Club, JCB, Discover and UnionPay."""


def _card(value: str) -> bool:
    digits = "".join(map(str, digits_of(value)))
    issued = any(
        len(digits) in lengths and low <= int(digits[: len(str(low))]) <= high for (low, high), lengths in _ISSUERS
    )
    return issued and len(set(digits)) > 1 and luhn(digits)


_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22,
    "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22,
    "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30,
    "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31,
    "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
_IBAN = re.compile(
    r"(?<![^\W_])(?:"
    + "|".join(f"{country}[0-9]{{2}}(?: ?[A-Z0-9]){{{length - 4}}}" for country, length in _IBAN_LENGTHS.items())
    + r")(?![^\W_])"
)
"""Length by country, from the SWIFT registry of ISO 13616."""


def _iban(value: str) -> bool:
    """ISO 13616: the country and check digits go to the end, and the whole is 1 modulo 97."""
    joined = value.replace(" ", "")
    return mod_97(joined[4:] + joined[:4]) == 1


_CODES = frozenset(
    map(
        str,
        (
            1, 7, 20, 27, *range(30, 35), 36, *range(39, 42), *range(43, 50), *range(51, 59), *range(60, 67), 81, 82, 84, 86, *range(90, 96),
            98, 211, 212, 213, 216, 218, *range(220, 259), *range(260, 270), 290, 291, *range(297, 300), *range(350, 360), *range(370, 384),
            *range(385, 390), *range(420, 424), *range(500, 510), *range(590, 600), 670, *range(672, 684), *range(685, 693), 850, 852, 853,
            855, 856, 880, 886, *range(960, 969), *range(970, 978), *range(992, 997), 998,
        ),
    )
)  # fmt: skip
"""Country codes of ITU-T E.164."""
_DATE = r"[0-9]{2}[ /\-][0-9]{2}[ /\-](?:19|20)[0-9]{2}(?![0-9])"
_PHONE = re.compile(
    rf"(?<![^\W_])(?<![0-9][ .\-/])(?:\+|00)[1-9](?:[ .\-/]?\(?[0-9]\)?){{6,14}}{_AFTER}"
    rf"|{_BEFORE}(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[\-. ])[2-9][0-9]{{2}}[\-. ][0-9]{{4}}{_AFTER}"
    rf"|{_BEFORE}(?!{_DATE})\(?0[1-9][0-9]{{0,3}}\)?[ /\-][0-9]{{2,4}}(?:[ \-]?[0-9]{{2,4}}){{1,3}}{_AFTER}"
)


def _phone(value: str) -> bool:
    """International with a country's code, North American, or with the trunk prefix 0 and nine digits at least."""
    digits = "".join(map(str, digits_of(value)))
    if value.startswith(("+", "00")):
        number = digits.removeprefix("00")
        if value == digits:
            return False  # nothing but digits may be any number
        return 8 <= len(number) <= 15 and any(number[:n] in _CODES for n in (1, 2, 3))
    return 9 <= len(digits) <= 12


_IP = re.compile(
    r"(?<![\w.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w\-]|\.[0-9])"
    r"|(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{1,4}(?![\w:])"
)


def _ip(value: str) -> bool:
    """A public address of either version: private, local and documentation ranges are nobody's."""
    try:
        return ipaddress.ip_address(value).is_global
    except ValueError:
        return False


def _us_ssn(value: str) -> bool:
    """Areas 000, 666 and 900 on, group 00 and serial 0000 are never given (SSA); there is no check digit."""
    area, group, serial = value.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _uk_nhs(value: str) -> bool:
    """Weights 10 to 2, modulo 11."""
    digits = digits_of(value)
    return (11 - _weighted(digits[:9], range(10, 1, -1)) % 11) % 11 == digits[9]


def _es_dni(value: str) -> bool:
    """The number modulo 23 gives the letter; X, Y, Z of a foreigner's stand for 0, 1, 2."""
    joined = re.sub(r"[ \-]", "", value)
    number = int(joined[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == joined[-1]


def _fr_nir(value: str) -> bool:
    """Sex, year, month (20 to 42 and 50 on where it is not known), place; the last two digits are 97 minus the rest modulo 97, of Corsica
    with 19 and 18 for 2A and 2B."""
    joined = value.replace(" ", "")
    month = int(joined[3:5])
    number = int(joined[:13].replace("2A", "19").replace("2B", "18"))
    return (1 <= month <= 12 or 20 <= month <= 42 or month >= 50) and 97 - number % 97 == int(joined[13:])


def _de_tax_id(value: str) -> bool:
    """One digit occurs twice or three times, the others once at most; ISO/IEC 7064 MOD 11,10."""
    digits = digits_of(value)
    counts = sorted(digits[:10].count(d) for d in set(digits[:10]))
    product = 10
    for one in digits[:10]:
        product = ((product + one) % 10 or 10) * 2 % 11
    return digits[0] != 0 and counts[-1] in (2, 3) and counts[-2] == 1 and (11 - product) % 10 == digits[10]


_ODD = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)) | dict(
    zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23), strict=True)
)  # fmt: skip


def _it_fiscal_code(value: str) -> bool:
    """Day of birth 1 to 31 or 41 to 71, and the check letter of the decree of 23 December 1976."""
    even = sum(int(one, 36) - (10 if one.isalpha() else 0) for one in value[1:15:2])
    odd = sum(_ODD[one] for one in value[0:15:2])
    return 1 <= int(value[9:11]) % 40 <= 31 and int(value[9:11]) <= 71 and chr(65 + (even + odd) % 26) == value[15]


def _pl_pesel(value: str) -> bool:
    """Date of birth, its century in the month, and weights 1, 3, 7, 9."""
    digits = digits_of(value)
    century, month = divmod(int(value[2:4]), 20)
    year = (1900, 2000, 2100, 2200, 1800)[century] + int(value[:2])
    dated = _is_date(year, month, int(value[4:6]))
    return dated and (_weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) + digits[10]) % 10 == 0


def _br_cpf(value: str) -> bool:
    """Two check digits modulo 11."""
    digits = digits_of(value)
    checks = [(_weighted(digits[:n], range(n + 1, 1, -1)) * 10 % 11) % 10 for n in (9, 10)]
    return len(set(digits)) > 1 and checks == digits[9:]


def _cn_id(value: str) -> bool:
    """Date of birth and ISO/IEC 7064 MOD 11-2 (GB 11643)."""
    digits = [int(one) for one in value[:17]]
    dated = 1900 <= int(value[6:10]) < 2100 and _is_date(int(value[6:10]), int(value[10:12]), int(value[12:14]))
    return dated and "10X98765432"[_weighted(digits, [2**n % 11 for n in range(17, 0, -1)]) % 11] == value[17]


def _fitting(layout: str) -> re.Pattern[str]:
    return re.compile(f"{_BEFORE}{layout}{_AFTER}")


KINDS: tuple[Kind, ...] = (
    Kind("email", "e-mail addresses", _EMAIL, _email, checked=False),
    Kind("iban", "bank accounts (IBAN)", _IBAN, _iban),
    Kind("it_fiscal_code", "Italian fiscal codes", _fitting(r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"), _it_fiscal_code),
    Kind("cn_id", "Chinese resident identity numbers", _fitting(r"(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])[0-9]{15}[0-9X]"), _cn_id),
    Kind("card", "payment cards", _CARD, _card),
    Kind("fr_nir", "French social security numbers", _fitting(r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"), _fr_nir),
    Kind("br_cpf", "Brazilian tax numbers (CPF)", _fitting(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"), _br_cpf),
    Kind("pl_pesel", "Polish identity numbers (PESEL)", _fitting(r"[0-9]{2}(?:[02468][1-9]|[13579][0-2])[0-3][0-9]{6}"), _pl_pesel),
    Kind("de_tax_id", "German tax numbers", _fitting(r"[1-9][0-9] ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}"), _de_tax_id),
    Kind("es_dni", "Spanish identity numbers (DNI, NIE)", _fitting(r"(?:[0-9]{8}|[XYZ]-?[0-9]{7})[ \-]?[A-HJ-NP-TV-Z]"), _es_dni),
    Kind("us_ssn", "US social security numbers", _fitting(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"), _us_ssn, checked=False),
    Kind("uk_nhs", "British health service numbers", _fitting(r"[0-9]{3} [0-9]{3} [0-9]{4}"), _uk_nhs),
    Kind("phone", "telephone numbers", _PHONE, _phone, checked=False),
    Kind("ip", "public IP addresses", _IP, _ip, checked=False),
)  # fmt: skip
"""In the order in which they take what they find: those with the surest checks first."""
