"""What personal data looks like: published examples, digits off by one, and what only looks like it."""

from __future__ import annotations

import random
import re

import pytest

from audit.privacy.pii_patterns import KINDS, Kind, chance_rate, luhn, mask, mod_97, one_spelling, scan

BY_NAME = {kind.name: kind for kind in KINDS}
EXAMPLES = {  # of the standards, of the authorities that give the numbers, and of python-stdnum's documentation
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NO93 8601 1117 947"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "30000000000004", "6011000000000004", "3530111333300000"],
    "it_fiscal_code": ["RSSMRA85T10A562S"],
    "cn_id": ["11010519491231002X"],
    "fr_nir": ["2 55 08 14 168 025 38", "255081416802538"],
    "br_cpf": ["390.533.447-05"],
    "pl_pesel": ["44051401359"],
    "de_tax_id": ["36574261809", "36 574 261 809"],
    "es_dni": ["12345678Z", "X-1234567-L", "54362315K"],
    "uk_nhs": ["943 476 5870"],
}  # fmt: skip
UNCHECKED = {
    "us_ssn": ["536-90-4399"],
    "email": ["jane.doe+news@mail.example.co.uk", "o'neil@example.ie", "jürgen@müller.de", "a_b@sub-domain.museum"],
    "phone": ["+49 30 901820", "+49 (0)30 90182-0", "(415) 555-2671", "415-555-2671", "0044 20 7946 0958", "06 12 34 56 78", "030/1234567"],
    "ip": ["8.8.8.8", "2001:4860:4860::8888", "2606:4700:4700:0:0:0:0:1111"],
}  # fmt: skip


def kinds_in(text: str) -> list[str]:
    return [one.kind for one in scan(text, KINDS)]


@pytest.mark.parametrize(
    ("kind", "value"), [(k, v) for group in (EXAMPLES, UNCHECKED) for k, vs in group.items() for v in vs]
)
def test_published_examples(kind: str, value: str) -> None:
    for text in (value, f"it is {value}, thanks", f"({value}).", f'"{value}"\n', f"{value};{value}"):
        assert set(kinds_in(text)) == {kind}, text
    assert kind == "email" or not kinds_in(f"x{value}x")


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, vs in EXAMPLES.items() for v in vs])
def test_a_digit_off_is_told(kind: str, value: str) -> None:
    places = [i for i, one in enumerate(value) if one.isdigit()]
    missed = 0
    for i in places:
        changed = value[:i] + str((int(value[i]) + 1) % 10) + value[i + 1 :]
        missed += bool(BY_NAME[kind].pattern.fullmatch(changed)) and BY_NAME[kind].valid(changed)
    assert missed <= (kind == "br_cpf")  # a remainder of 10 is written as 0


@pytest.mark.parametrize(
    "text",
    [
        "logo@2x.png", "a@b", "@handle", "0.4111111111111111", "1234 4111 1111 1111 1111 5678", "v1.2.3.4", "1.2.3.4.5", "192.168.1.1",
        "127.0.0.1", "300.1.1.1", "12:30:45", "2020-01-02", "01-02-2020 10:30", "000-12-3456", "666-12-3456", "1234567890", "4111111111111112",
        "4444444444444444", "DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "3f4111111111111111ab", "36574261808", "123 456 7890",
        "01:23:45:67:89:ab", "fe80::1", "+999 12345678", "-11.93847", "[0.25, 0.125]",
    ],
)  # fmt: skip
def test_what_only_looks_like_it(text: str) -> None:
    assert kinds_in(text) == []


def test_values_have_one_spelling_and_no_mask_gives_them_away() -> None:
    assert one_spelling("4111-1111 1111 1111") == "4111111111111111"
    assert one_spelling("Jane@Example.COM") == "jane@example.com"
    assert mask("DE89 3704 0044 0532 0130 00") == "**** **** **** **** **** 00"
    assert mask("jane.doe@mail.example.com") == "j***.***@****.*******.com"
    for group in (EXAMPLES, UNCHECKED):
        for values in group.values():
            assert all(sum(c.isalnum() for c in mask(v)) <= 7 for v in values)


def test_check_digits() -> None:
    assert luhn("79927398713")
    assert not luhn("79927398710")
    assert mod_97("3214282912345698765432161182") == 1  # GB82 WEST 1234 5698 7654 32, in digits


@pytest.mark.parametrize(
    ("kind", "rate"), [("card", 0.0232), ("iban", 1 / 97), ("es_dni", 1 / 23), ("br_cpf", 0.01), ("uk_nhs", 1 / 11)]
)
def test_random_digits_pass_as_often_as_the_check_lets_them(kind: str, rate: float) -> None:
    passed = chance_rate(BY_NAME[kind], EXAMPLES[kind][:1], 8000, 0)
    assert passed / 8000 == pytest.approx(rate, rel=0.3)


def test_a_long_line_takes_no_longer_than_its_length() -> None:
    rng = random.Random(0)
    line = (
        "".join(rng.choice("0123456789 .-@ab:") for _ in range(20_000))
        + "1" * 5000
        + "!" * 50_000
        + "a." * 3000
        + "@"
        + "a-" * 3000
    )
    for kind in KINDS:
        sum(1 for _ in kind.candidates(line))


def test_an_earlier_kind_has_what_a_later_one_would_take() -> None:
    own = Kind("order", "orders", re.compile(r"\b4111[0-9 ]+\b"), bool, checked=False)
    assert [one.kind for one in scan("4111 1111 1111 1111", (own, *KINDS))] == ["order"]
    assert [one.kind for one in scan("4111 1111 1111 1111", KINDS)] == ["card"]
