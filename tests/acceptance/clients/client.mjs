// What Node does by itself: fetch (undici), and http with and without an agent.
import http from "node:http";

const base = process.argv[2];
const add = '{"args":[5]}';
const large = new Uint8Array(300000);

async function ask(method, path, body, headers = {}) {
  const answer = await fetch(base + path, { method, body, headers, duplex: "half" });
  console.log(method, answer.status, await answer.text());
}

// In chunks; with `headers` as a proxy or a framework may add them.
function ask_by_http(method, path, body, headers, agent) {
  return new Promise((done, failed) => {
    const request = http.request(base + path, { method, headers, agent }, (answer) => {
      let told = "";
      answer.on("data", (piece) => (told += piece));
      answer.on("end", () => done(console.log(method, answer.statusCode, told)));
    });
    request.on("error", failed);
    request.write(body);
    request.end();
  });
}

const chunks = (body) => new Blob([body]).stream();
await ask("POST", "/rpc/Counter/node/add", add);
await ask("POST", "/rpc/Counter/node/add", chunks(add));
await ask("POST", "/objects/Counter/node/size", large);
await ask("POST", "/objects/Counter/node/size", chunks(large));
await ask("PUT", "/objects/Counter/node/size");
await ask("POST", "/admin/objects/Counter/node/pause", "{}");
await ask("POST", "/admin/objects/Counter/node/resume", chunks("{}"));
await ask("GET", "/livez");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const offer = { connection: "Upgrade, HTTP2-Settings", upgrade: "h2c", "http2-settings": "AAMAAABkAAQAAP__" };
await ask_by_http("POST", "/rpc/Counter/node/add", add, offer);
await ask_by_http("POST", "/rpc/Counter/node/add", add, { ...offer, "content-length": add.length });
await ask_by_http("POST", "/rpc/Counter/node/add", add, {}, agent);
await ask_by_http("POST", "/rpc/Counter/node/add", add, { expect: "100-continue" }, agent);
agent.destroy();
