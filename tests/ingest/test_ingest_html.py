"""What does a web page say?"""

from __future__ import annotations

from pathlib import Path

import pytest

from vivace.errors import IngestError
from vivace.ingest.formats import read
from vivace.types import Document


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


def parsed(path: Path, html: str | None = None) -> Document:
    if html is not None:
        path.write_text(html, "utf-8")
    (found,) = read(path, max_bytes=1 << 26)
    assert isinstance(found, Document), found
    return found


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>a <b>b</b>c\n\n d<i> e</i> <u> f</u></p>", "a bc d e f"),
        ("<p>one</p><p>two<br>three</p>four", "one\n\ntwo\nthree\n\nfour"),
        ("<div>one<div>two</div></div>", "one\n\ntwo"),
        ("a&shy;b&nbsp;c&amp;d&#8203;", "ab c&d"),
        ("<ul><li>a</li><li><p>b</p><ol><li>c</ol></li></ul>d", "- a\n- b\n\n- c\n\nd"),
        ("<ul><li></li></ul><p>x</p>", "x"),
        ("<dl><dt>term<dd>meaning</dl>", "term\n\nmeaning"),
        ("<dl><dt></dt><dd>meaning</dl>", "meaning"),
        (
            "<table><caption>C</caption><tr><th>A<th>B<th>D<tr><td><p>1</p><td><td>x<br>y</table>z",
            "C\n\nA | B | D\n1 | | x y\n\nz",
        ),
        ("<table><tr><td><td>b<tr><td></table>", "| b"),
        ("<table><tr><td>a<td><ul><li>b<li>c</ul><td>d</table>", "a | b; c | d"),
        (
            "<table><tr><td><table><tr><td>a<td>b</table><p>c</p><td>d</table>",
            "a | b\n\nc\n\nd",
        ),
        ("a<td>b", "ab"),
        ("a<pre>\n x\n\n  y\t\n\n</pre>b", "a\n\n x\n\n  y\t\n\nb"),
        ("<pre><code>a\n</code><br><b>b\n\n</b>c</pre>", "a\n\nb\n\nc"),
        ("<pre>\n\n</pre>a<pre></pre>", "a"),
        ("a<script>x</script><style>y</style><noscript>z</noscript><template>t</template>b", "ab"),
        ("a<svg><text>x</text></svg><select><option>o</select><button>p</button>", "a"),
        ("<header>h</header><nav>n</nav>a<aside>s</aside><footer>f</footer>", "a"),
        ("<p hidden>x</p><div role=navigation>menu</div><!-- c -->a", "a"),
        ("a long text<form>name <input></form>", "a long text"),
        ("<form><p>the whole page is a form</p></form>", "the whole page is a form"),
        ("<div>menu</div><main>the main part of it</main>", "the main part of it"),
        ("<div>menu</div><div role=main>the main part of it</div>", "the main part of it"),
        ("<div>menu</div><article>the story itself</article>", "the story itself"),
        ("<p>a</p><article>one</article><article>two</article>", "a\n\none\n\ntwo"),
        (
            "<p>most of the text is outside</p><main>small</main>",
            "most of the text is outside\n\nsmall",
        ),
    ],
)
def test_elements_are_laid_out_as_lines_and_paragraphs(page: Path, html: str, text: str) -> None:
    assert parsed(page, html).text == text


def test_headings_give_sections(page: Path) -> None:
    found = parsed(
        page,
        "<title> The\n page </title><p>intro</p><h1>One <em>big</em>\nhead</h1>a<h3>Deep</h3>b"
        "<h2></h2><h2><img></h2><section><h2>Two</h2><h2>Three</h2>c</section>",
    )
    assert found.title == "The page"
    assert [(found.text[s.start :].split("\n")[0], s.heading) for s in found.sections] == [
        ("One big head", ("One big head",)),
        ("Deep", ("One big head", "Deep")),
        ("Two", ("One big head", "Two")),
        ("Three", ("One big head", "Three")),
    ]
    assert found.text.startswith("intro\n\nOne big head\n\na\n\nDeep\n\nb\n\nTwo\n\nThree\n\nc")


def test_an_articles_header_keeps_its_heading_only(page: Path) -> None:
    found = parsed(
        page,
        "<header><h1>Site</h1></header><article><header><h1>Head</h1><p>share this</p></header>"
        "the text of the article</article>",
    )
    assert found.text == "Head\n\nthe text of the article"
    assert found.title == "Head"
    assert found.sections[0].heading == ("Head",)


def test_an_article_within_the_body_keeps_its_heading(page: Path) -> None:
    one = "<article><header><h2>Head</h2></header>text</article><article></article>"
    found = parsed(page, f"<p>much more text before that</p>{one}")
    assert found.text == "much more text before that\n\nHead\n\ntext"


def test_the_title_falls_back_to_the_stem(page: Path) -> None:
    assert parsed(page, "<p>text").title == "page"
    assert parsed(page, "<title> </title><h2>x</h2>").title == "page"


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<script>app()</script><div id=root></div>", "no text"),
        ("<frameset><frame></frameset>", "no text"),
        ("<div>" * 6_000 + "x", "nests over"),
        ("<div></x>" * 6_000 + "x", "nests over"),
        ("<!-- c --><style>i{}</style>" + "<div></x><!--><i></p>" * 3_000 + "x", "nests over"),
        (" ", "is empty"),
    ],
)
def test_pages_that_cannot_be_read(page: Path, html: str, reason: str) -> None:
    page.write_text(html)
    (found,) = read(page, max_bytes=1 << 20)
    assert isinstance(found, IngestError)
    assert reason in found.reason


def test_deep_and_unclosed_pages(page: Path) -> None:
    assert parsed(page, "<div>" * 4_000 + "x").text == "x"
    assert parsed(page, "<p>x" * 10_000 + "<br>" * 10_000 + "</div>" * 10_000).text[:4] == "x\n\nx"
    assert parsed(page, "<table><tr><td>" * 1_000 + "x").text == "x"


@pytest.mark.parametrize("around", ["<!--{}-->", "<script>{}</script>", "<STYLE a=b>{}</style >"])
def test_what_is_no_element_is_not_deep(page: Path, around: str) -> None:
    assert parsed(page, "<p>x" + around.format("<div>" * 6_000)).text == "x"


def test_a_real_page(data: Path) -> None:
    found = parsed(data / "documents/html/test_wikipedia.html")
    assert found.title == "Microsoft - Wikipedia"
    assert ("Microsoft", "History", "1972–1985: Founding") in {s.heading for s in found.sections}
    assert "Paul Allen" in found.text
    assert "154 languages" not in found.text
    for section in found.sections:
        assert found.text.startswith(section.heading[-1], section.start)
