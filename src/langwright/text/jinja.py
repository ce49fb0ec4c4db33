"""Jinja as chat templates expect it: sandboxed, with the helpers that `transformers` gives them.

The environment, the helpers and `{% generation %}` are those of transformers.utils.chat_template_utils, so that a
template gives the same text here and there. Jinja is imported when a template is first compiled.
"""

import functools
import json
from datetime import datetime
from typing import Any, NoReturn

OPEN, CLOSE = "\x02<answer>\x02", "\x02</answer>\x02"
"""Written around what a `{% generation %}` block gives when `mark_answers` is set; no text holds these."""


@functools.cache
def compile_template(source: str) -> Any:
    """A jinja2.Template. Raises jinja2.TemplateSyntaxError where the source is broken."""
    return _environment().from_string(source)


@functools.cache
def _environment() -> Any:
    import jinja2
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %} ... {% endgeneration %}`: the assistant's words."""

        tags = {"generation"}  # noqa: RUF012 (as jinja declares it)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_wrap"), [], [], body).set_lineno(line)

        @jinja2.pass_context
        def _wrap(self, context: Any, caller: Any) -> str:
            text: str = caller()
            return OPEN + text + CLOSE if context.get("mark_answers") else text

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    # JSON as it is; Jinja's own filter would escape it for HTML.
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
