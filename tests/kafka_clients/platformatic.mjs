// @platformatic/kafka, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const require = createRequire(`${process.env.PERDURE_CLIENT_DIR}/`);
const kafka = await import(pathToFileURL(require.resolve("@platformatic/kafka")));
const { Consumer, Producer, MessagesStreamModes, stringSerializers, stringDeserializers } = kafka;

const [bootstrap, app, prefix, count] = process.argv.slice(2);
const producer = new Producer({ clientId: prefix, bootstrapBrokers: [bootstrap], serializers: stringSerializers });
await producer.send({
  messages: [...Array(+count).keys()].map((n) => ({
    topic: `${app}.commands`,
    key: `Counter/${prefix}-${n}`,
    value: '{"method":"increment","args":[1]}',
  })),
});
await producer.close();
const consumer = new Consumer({
  groupId: `${prefix}-readers`,
  clientId: prefix,
  bootstrapBrokers: [bootstrap],
  deserializers: stringDeserializers,
});
const stream = await consumer.consume({ topics: [`${app}.replies`], mode: MessagesStreamModes.EARLIEST });
const answered = new Set();
setTimeout(() => process.exit(1), 60_000).unref();
for await (const message of stream) {
  if (!message.key?.startsWith(`Counter/${prefix}-`)) continue;
  answered.add(message.key);
  console.log(message.key, message.headers.get("outcome"), message.value);
  if (answered.size === +count) break;
}
await consumer.close(true);
