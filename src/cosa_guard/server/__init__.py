"""`cosa serve`: one proxy for all tenants, in front of any upstream. The hot routes are plain ASGI callables."""

__all__: list[str] = []
