"""The prompts as they are sent, to look at before anything is asked."""

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
