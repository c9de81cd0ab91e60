"""Markup: from text and numbers to fragments of HTML; every text is a stranger's and is escaped here."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import NewType

#: A fragment that may stand in a page as it is; only this module makes one of text.
Html = NewType("Html", str)

#: Control characters, and those that turn the direction of text around: a key full of them would hide what it says.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

Cell = str | int | float | None


class Number(str):
    """Text that is a number with its unit, and stands to the right."""

    __slots__ = ()


def text(value: object) -> Html:
    """Somebody's text as it is: no tag, no entity, and nothing unseen but as its code."""
    visible = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(value))
    return Html(html.escape(visible))


def joined(*fragments: Html) -> Html:
    """Fragments one after the other."""
    return Html("\n".join(fragments))


def section(title: str, *body: Html, intro: str = "") -> Html:
    """A part of the page with its heading."""
    said = f"<p>{text(intro)}</p>\n" if intro else ""
    return Html(f"<section>\n<h2>{text(title)}</h2>\n{said}{joined(*body)}\n</section>")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """What is said of things: a name and a value on each line."""
    lines = (f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in pairs)
    return Html("<dl>\n" + "\n".join(lines) + "\n</dl>")


def tiles(figures: Iterable[tuple[str, str, str]]) -> Html:
    """The figures that a person looks for first: each a value, what it is, and a word more."""
    made = (
        f"<li><strong>{text(value)}</strong><span>{text(name)}</span><small>{text(more)}</small></li>"
        for value, name, more in figures
    )
    return Html('<ul class="tiles">\n' + "\n".join(made) + "\n</ul>")


def table(caption: str, names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Html:
    """A table; numbers stand to the right, and long text breaks."""
    rows = list(rows)
    first = rows[0] if rows else [""] * len(names)
    head = "".join(f'<th scope="col"{_place(cell)}>{text(name)}</th>' for name, cell in zip(names, first, strict=True))
    body = "\n".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return Html(
        f'<div class="wide"><table>\n<caption>{text(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def bars(caption: str, values: Iterable[tuple[str, float, str]]) -> Html:
    """A table of names, each with a bar as long as its value is beside the largest, and the value in words."""
    values = list(values)
    most = max((value for _, value, _ in values), default=0) or 1
    rows = "\n".join(
        f'<tr><th scope="row">{text(name)}</th><td class="bar"><i style="width:{100 * value / most:.1f}%"></i></td>'
        f'<td class="number">{text(words)}</td></tr>'
        for name, value, words in values
    )
    return Html(f'<table class="bars">\n<caption>{text(caption)}</caption>\n<tbody>\n{rows}\n</tbody>\n</table>')


def figure(picture: Html, caption: str) -> Html:
    """A picture and what is to be seen on it."""
    return Html(f"<figure>\n{picture}\n<figcaption>{text(caption)}</figcaption>\n</figure>")


def folded(summary: str, body: Html) -> Html:
    """Something long that opens when a person wants it; printed closed."""
    return Html(f"<details>\n<summary>{text(summary)}</summary>\n{body}\n</details>")


def alert(message: str) -> Html:
    """What a person must see first, in red."""
    return Html(f'<p class="alert" role="alert">{text(message)}</p>')


def _cell(cell: Cell) -> str:
    shown = f"{cell:,}" if isinstance(cell, int | float) else cell or ""
    return f"<td{_place(cell)}>{text(shown)}</td>"


def _place(cell: Cell) -> str:
    return ' class="number"' if isinstance(cell, int | float | Number) else ""
