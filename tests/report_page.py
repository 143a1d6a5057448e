"""A page as a browser reads it, and the run that the pages of these tests are of."""

from html.parser import HTMLParser

#: A molecule that would break a page that does not escape it.
HOSTILE = "<img src=x onerror=alert(1)> & \"q\" 'q' </script>"
WORDS = ["hidden=8", "epochs=3", "batch_size=32", "data.seed=5", "learning_rate=1e-3"]


class Elements(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.cdata_elem == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self.cdata_elem is None:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.elements if name == tag)
