"""An HTML page as tests read it."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input", "link"}


class Page(HTMLParser):
    """tags: (name, attributes); text: all that a reader reads, by the innermost element that holds it."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(html)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self._open:
            self.text.append((self._open[-1], data.strip()))

    def said(self):
        return "\n".join(text for tag, text in self.text if tag not in ("style", "script"))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]
