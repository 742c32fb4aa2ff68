"""Show prompts, and what a run has used, in a notebook."""

import html

_STYLE = "white-space:pre-wrap;margin:0 0 .5em;padding:.5em;border:1px solid #8888"


class Preview(dict):
    """The messages of each prompt by its name, which print as text and show as HTML."""

    def __str__(self) -> str:
        parts = []
        for name, messages in self.items():
            parts.append(f"=== {name} ===")
            parts += [f"[{message['role']}]\n{message['content']}" for message in messages]
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = []
        for name, messages in self.items():
            parts.append(f"<h4>{html.escape(name)}</h4>")
            parts += [
                f"<b>{message['role']}</b><div style='{_STYLE}'>"
                f"{html.escape(message['content'])}</div>"
                for message in messages
            ]
        return "".join(parts)


class Usage(dict):
    """Counts of a run, which show as a table in a notebook."""

    def _repr_html_(self) -> str:
        shown = {k: f"{v:.4g}" if isinstance(v, float) else f"{v:,}" for k, v in self.items()}
        header = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in shown)
        cells = "".join(f"<td>{value}</td>" for value in shown.values())
        return f"<table><thead><tr>{header}</tr></thead><tr>{cells}</tr></table>"
