"""Administration over HTTP, under `/admin`: it shows what a node holds, and passes on acts on its objects.

`page.py` answers the requests, and `views.py` makes what they show. Acts such as pause or delete become
commands, which the owner carries out (streams/owner/administration.py).

Law: what is shown of an object is durable, and the node has just proved that it owns the partition.
[test_admin.py]
"""
