// The counter (/counter/NAME, POST adds one) and the room (/room/NAME, a socket's message is stored and goes to all).
export class Counter {
  constructor(state) { this.state = state; }
  async fetch(request) {
    let count = (await this.state.storage.get("count")) || 0;
    if (request.method === "POST") {
      count += 1;
      await this.state.storage.put("count", count);
    }
    return new Response(JSON.stringify({ count }));
  }
}

export class Room {
  constructor(state) { this.state = state; }
  async fetch(request) {
    if (request.headers.get("Upgrade") !== "websocket") return new Response("room");
    const pair = new WebSocketPair();
    this.state.acceptWebSocket(pair[1]);
    return new Response(null, { status: 101, webSocket: pair[0] });
  }
  async webSocketMessage(socket, message) {
    const number = ((await this.state.storage.get("messages")) || 0) + 1;
    this.state.storage.put({ messages: number, ["message:" + String(number).padStart(12, "0")]: message });
    // workerd holds what is sent back until what was put is on disk
    for (const other of this.state.getWebSockets()) other.send(message);
  }
}

export default {
  async fetch(request, env) {
    const [, kind, name] = new URL(request.url).pathname.split("/");
    const objects = kind === "room" ? env.ROOM : env.COUNTER;
    return objects.get(objects.idFromName(name)).fetch(request);
  },
};
