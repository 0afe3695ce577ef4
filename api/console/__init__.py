"""The console at `/console`: administration and the record of what happened, as HTML for people.

`console_page` (page.py) makes the request to `/admin` that a page needs, and renders the answer with a
template (rendering.py). With access control a browser signs in once with a token; its cookie is read in
api/access/browser_sessions.py.

Laws [test_console.py]
- A page shows what documented requests to `/admin` answer, and names them and the command that does the same.
  The console has no views of its own.
- A change is a form that a person submits, after a page that says what will happen. It is a command with the
  person's principal, as any other.
- Everything that comes from the app is escaped text. No script but the console's own runs, and nothing is
  loaded from elsewhere.
- Without its script each page works; the script follows the log live and moves through a history.
"""
