from fruitpipe.manifest import Manifest


def render(manifest: Manifest) -> str:
    return "<p>"
