"""Words: every text of the catalogues is translated, nothing in braces is lost, and every page speaks the reader's language."""

from __future__ import annotations

import html
import re
import string

import pytest

from audit import language
from audit.catalogues.__main__ import catalogue, messages_of_template, own_checks, template
from audit.catalogues.stored import PLURAL, called
from audit.parameters import UserError
from audit.report import render
from audit.report._about import about, known_checks
from audit.report._words import STATUS
from audit.run_folder import Run

OTHERS = [code for code in language.LANGUAGES if code != "en"]
CHINESE = re.compile(r"[\u3400-\u9fff]")
SPACED = re.compile(r"[\u3400-\u9fff][,:;?!]|[，。；：] |\s$|^\s")
PROSE = re.compile(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}")
CODE = re.compile(r"\{\w*\}|'[^']*'|`[^`]*`|\w+\([^)]*\)|\w+\.\w+|\w+_\w+")
"""What is no prose: holes, quoted words of files, names of checks and parameters."""
GLOSSARY = {
    "adversarial examples?": "对抗样本",
    "backdoors?": "后门",
    "baselines?": "基线",
    "black[- ]box": "黑盒",
    "canar(?:y|ies)": "金丝雀",
    "certified": "认证",
    "corruptions?": "损坏",
    "counterfactuals?": "反事实",
    "differential privacy": "差分隐私",
    "evidence": "证据",
    "explainers?": "解释方法",
    "false positive rates?": "假正率",
    "gates?|gated": "门禁",
    "held[- ]out": "留出",
    "ledger": "账本",
    "maps?": "归因图|特征图",
    "members": "成员",
    "membership inference": "成员推断",
    "prototypes?": "原型",
    "quer(?:y|ies)": "查询",
    "rank correlation": "秩相关",
    "robust accuracy": "鲁棒准确率",
    "saliency": "显著图",
    "scenarios?": "场景",
    "severity": "严重程度|程度",
    "shadow models?": "影子模型",
    "threat model": "威胁模型",
    "tokens?": "词元",
    "triggers?": "触发器",
    "verdicts?": "结论",
    "white[- ]box": "白盒",
    "95 % intervals?": "95 % 置信区间",
}
PAGES = ("overview", "run", "saliency", "attacks", "privacy", "compare", "models", "live", "new_audit")


def names_in(text: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def texts_of(message) -> tuple[str, ...]:
    return message.string if isinstance(message.string, tuple) else (message.string,)


@pytest.mark.parametrize("code", OTHERS)
def test_a_catalogue_has_every_text_with_the_same_names_in_braces(code):
    known = catalogue(code)
    for message in template():
        if not message.id:
            continue
        found = known.get(message.id)
        assert found is not None, f"{message.id!r} is not in the catalogue: make messages"
        ids = message.id if isinstance(message.id, tuple) else (message.id,)
        assert all(texts_of(found)), f"{message.id!r} is not translated"
        assert "fuzzy" not in found.flags, f"{message.id!r} is a guess"
        for text in texts_of(found):
            assert names_in(text) - {PLURAL} == set().union(*map(names_in, ids)) - {PLURAL}, message.id


@pytest.mark.parametrize("code", OTHERS)
def test_a_catalogue_holds_nothing_that_the_source_has_not(code):
    known = {message.id for message in template()}
    assert [message.id for message in catalogue(code) if message.id and message.id not in known] == []


@pytest.mark.parametrize("code", OTHERS)
def test_what_is_read_is_what_is_written(code):
    """The compiled file is the one beside it."""
    with language.speaking(code):
        for message in catalogue(code):
            if message.id and isinstance(message.id, str):
                assert language.gettext(message.id) == message.string


def test_chinese_is_set_in_chinese():
    """Full-width punctuation after Chinese characters, no spaces at the ends but where the English has them."""
    for message in catalogue("zh_CN"):
        if message.id and (isinstance(message.id, tuple) or message.id == message.id.strip(" ,;.")):
            for text in texts_of(message):
                assert not SPACED.search(text), text


def test_a_term_is_said_in_one_word():
    """Whoever translates takes these words: a reader who meets a term again knows it again."""
    for message in catalogue("zh_CN"):
        english = CODE.sub(" ", message.id[0] if isinstance(message.id, tuple) else message.id)
        for term, chinese in GLOSSARY.items():
            if re.search(rf"\b(?:{term})\b", english, re.IGNORECASE):
                assert all(re.search(chinese, text) for text in texts_of(message)), (
                    f"{message.id!r}: {term} is {chinese}"
                )


def test_texts_are_found_wherever_they_are_called():
    source = """f'{_("inside")} {ngettext("one", "many", n)}'; _(name); other("no"); _("out" "side")"""
    assert set(called(source)) == {"inside", ("one", "many"), "outside"}


def test_texts_are_found_in_templates():
    source = """<b title="{{ _("named") }}">{{ _("{n} rows").format(n=3) }}{{ ngettext("one", "many", n) }}{{ _(name) }}</b>"""
    assert set(messages_of_template(source)) == {"named", "{n} rows", ("one", "many")}


def test_every_status_is_a_word_in_every_language():
    with language.speaking("zh_CN"):
        words = {language.gettext(status.word) for status in STATUS.values()}
    assert len(words) == len(STATUS)
    assert not words & {status.word for status in STATUS.values()}


@pytest.mark.parametrize("written", ["zh", "zh_CN", "zh-CN", "ZH_cn"])
def test_a_language_is_known_as_readers_write_it(written):
    assert language.code_of(written) == "zh_CN"


def test_an_unknown_language_is_refused():
    with pytest.raises(UserError, match="no language 'fr'"):
        language.code_of("fr")


def test_no_english_sentence_is_left_in_a_report(audited_home):
    """But for what the scenario and the data call their things, and the sources of methods, which are titles of papers."""
    for folder in sorted(audited_home.runs.iterdir()):
        run = Run(folder)
        with language.speaking("zh_CN"):
            page = re.sub(r"<(style|pre|code)\b.*?</\1>", "", render("html", run), flags=re.DOTALL)
        foreign = [about(check).summary for check in known_checks() if check not in own_checks()]
        own = " ".join([str(run.manifest), *foreign, *(about(check).source for check in run.manifest["checks"])])
        left = [text for text in map(html.unescape, re.findall(r">([^<]+)<", page)) if PROSE.search(text)]
        assert [text for text in (text.strip(" ：\n") for text in left) if text not in own] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_page_speaks_chinese(page, audited_home, opened):
    """Headings, captions and labels; a run's own name and what checks say of it stay as they are."""
    app = opened(page, fine=page != "new_audit", lang="zh_CN")  # whose first scenario names a model that is not here
    said = [element.value for kind in (app.header, app.subheader, app.caption) for element in kind]
    if page == "new_audit":  # the form has the names and the words of the checks' own parameters
        said = [element.value for element in app.subheader] + [button.label for button in app.button]
    else:
        said += [one.label for kind in (app.selectbox, app.multiselect, app.text_input, app.slider) for one in kind]
    english = [text for text in said if re.search("[a-z]{4}", text) and not CHINESE.search(text)]
    assert english == []
    assert any(CHINESE.search(text) for text in said)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_an_empty_home_speaks_chinese(page, home, opened):
    app = opened(page, fine=page != "new_audit", lang="zh_CN")
    said = [element.value for kind in (app.title, app.info, app.markdown) for element in kind]
    assert any(CHINESE.search(text) for text in said)
