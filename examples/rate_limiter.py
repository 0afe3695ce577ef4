"""A rate limiter: `QUOTA_REQUESTS` requests in `QUOTA_WINDOW_S` seconds per user
(header `user-id`), then 429.

One object for all users works; one object per user (`/objects/RateLimiter/alice`) scales.
"""

from __future__ import annotations

from perdure import DurableObject, Request, Response


class RateLimiter(DurableObject):
    async def fetch(self, request: Request) -> Response:
        name = f"quota:{request.headers.get('user-id', '')}"
        now_ms = self.state.now
        used, reset_ms = await self.state.get(name, (0, 0))
        if now_ms >= reset_ms:
            used, reset_ms = 0, now_ms + int(getattr(self.env, "QUOTA_WINDOW_S", 60) * 1000)
        if used >= getattr(self.env, "QUOTA_REQUESTS", 100):
            wait_s = -(-(reset_ms - now_ms) // 1000)
            return Response("Rate limited", 429, {"retry-after": str(wait_s)})
        await self.state.put(name, (used + 1, reset_ms))
        return Response("OK")
