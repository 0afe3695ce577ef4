"""The documents of an app: OpenAPI for its HTTP paths, AsyncAPI for its topics, and a page to read.

`document.py` and `asyncapi.py` make them from the app's classes, `mounted.py` serves them, and `html.py` is
the page.

Law: no code of the app runs for a document, and the same app gives the same bytes. [test_openapi.py,
test_asyncapi.py]
"""
