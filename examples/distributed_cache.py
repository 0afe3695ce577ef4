"""A cache in front of an origin: header `cache-key`; a miss fetches `ORIGIN_URL` +
key and keeps it for `CACHE_S` seconds.

Turns of one object come one after the other, so a hundred misses at once are one request to the origin.
"""

from __future__ import annotations

from perdure import DurableObject, FetchFailed, Request, Response, fetch


class DistributedCache(DurableObject):
    async def fetch(self, request: Request) -> Response:
        key = request.headers.get("cache-key", "")
        if not key:
            return Response("say what you want: cache-key", 400)
        cached = await self.state.get(key)
        if cached is not None:
            return Response(cached, headers={"x-cache": "hit"})
        try:
            answer = await fetch(self.env.ORIGIN_URL + key)
        except FetchFailed as error:
            return Response(f"the origin does not answer: {error}", 502)
        if answer.status != 200:
            return Response(f"the origin says {answer.status}", 502)
        data = await answer.text()
        await self.state.put(key, data, expiration_ttl=getattr(self.env, "CACHE_S", 3600))
        return Response(data, headers={"x-cache": "miss"})
