"""The pages' templates: whatever is put into them is text, unless the template itself calls it safe."""

import jinja2


def template(name: str) -> jinja2.Template:
    """One of this folder's templates, e.g. `page.html.j2`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("egrc_mega", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = lambda share: "-" if share is None else f"{100 * share:.1f}\u00a0%"
    return environment.get_template(name)
