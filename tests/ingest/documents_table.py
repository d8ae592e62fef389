"""What `vivace ingest` makes of every file under $VIVACE_TEST_DATA/documents.

A string the document must contain, or `Refused` with a part of the error, or `SKIPPED`. Strings are
of the middle of a file where it has one, and spread over the pages where there are several.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Refused(NamedTuple):
    """A part of the error's reason."""

    reason: str


SKIPPED: Final = None
PASSWORD: Final = "openpassword"

DOCUMENTS: Final[dict[str, str | Refused | None]] = {
    "docx/blk-containing-table.docx": Refused("is empty"),
    "docx/comments-rich-para.docx": "Some text worthy of note.",
    "docx/equations.docx": "For m=1,",
    "docx/having-images.docx": Refused("is empty"),
    "docx/hdr-header-footer.docx": "section without header of its own.",
    "docx/num-having-numbering-part.docx": "- Paragraph having List Number style.",
    "docx/par-hyperlinks.docx": "Three hyperlinks: the first one here, the second one",
    "docx/rlink.docx": "Testing Linked Images",
    "docx/tbl-having-tables.docx": Refused("is empty"),
    "docx/test.docx": "AutoGen: Enabling Next-Gen LLM Applications via Multi-Agent Conversation",
    "docx/test_with_comment.docx": "Comment by ",
    "html/test_wikipedia.html": "Microsoft was founded by Bill Gates and Paul Allen",
    "malformed/empty.pdf": Refused("is empty"),
    "malformed/random.bin": SKIPPED,
    "malformed/truncated.docx": Refused("is damaged"),
    "malformed/truncated.pdf": Refused("is damaged or no PDF"),
    "malformed/truncated.xlsx": Refused("is damaged"),
    "malformed/xxe.docx": Refused("declares a document type or entities"),
    "malformed/zipbomb_219x.docx": Refused("unpacks to 220 times its size"),
    "office/test.epub": "This is a test paragraph with some formatting.",
    "office/test.json": "key3: list_value2",
    "office/test.pptx": "2cdda5c8-e50e-4db4-b5f0-9722a649f455",
    "office/test.xlsx": "6ff4173b-42a5-4784-9b19-f49caff4d93d",
    "pdf/GeoTopo-komprimiert.pdf": "Ein topologischer Raum ist ein Paar (X, T)",
    "pdf/RECEIPT-2024-TXN-98765_retail_purchase.pdf": "TECHMART ELECTRONICS",
    "pdf/REPAIR-2022-INV-001_multipage.pdf": "Insured name Gabriel Diaz",
    "pdf/SPARSE-2024-INV-1234_borderless_table.pdf": "Warehouse: Distribution Center East",
    "pdf/crazyones-pdfa.pdf": "The round pegs in the square holes.",
    "pdf/google-doc-document.pdf": "Explicit is better than implicit.",
    "pdf/grayscale-image.pdf": Refused("has no text layer (1 page)"),
    "pdf/habibi.pdf": "habibi",
    "pdf/libreoffice-writer-password.pdf": Refused("is protected by a password"),
    "pdf/masterformat_partial_numbering.pdf": "Rotary Clubs of Grande Prairie",
    "pdf/minimal-document.pdf": "consetetur sadipscing elitr",
    "pdf/mistitled_outlines_example.pdf": "Hello, here is some text without a meaning.",
    "pdf/movie-theater-booking-2024.pdf": "STARLIGHT CINEMAS",
    "pdf/multicolumn.pdf": "consectetuer adipiscing elit",
    "pdf/pdflatex-4-pages.pdf": "what a printed text\nwill look like at this place",
    # PDFium finds no page tree in it
    "pdf/unreadablemetadata.pdf": Refused("is damaged or no PDF"),
    "pdf/with-attachment.pdf": "consetetur sadipscing elitr",
    "text/test_mskanji.csv": "名前: 髙橋淳 | 年齢: 35 | 住所: 名古屋",
    "text/test_notebook.ipynb": 'print("markitdown")',
    "text/zh_big5.txt": "繁體中文測試：快取命中率。",
    "text/zh_gb18030.txt": "向量数据库的性能优化策略：HNSW 与 IVF 的对比。",
    "text/zh_utf8_bom.txt": "中文 BOM utf-8",
}
