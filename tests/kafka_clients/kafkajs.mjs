// kafkajs, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT [legacy]
import { createRequire } from "node:module";
const require = createRequire(`${process.env.PERDURE_CLIENT_DIR}/`);
const { Kafka, Partitioners, logLevel } = require("kafkajs");

const [bootstrap, app, prefix, count, legacy] = process.argv.slice(2);
process.env.KAFKAJS_NO_PARTITIONER_WARNING = "1";
const kafka = new Kafka({ clientId: prefix, brokers: [bootstrap], logLevel: logLevel.NOTHING });
const producer = kafka.producer(legacy ? { createPartitioner: Partitioners.LegacyPartitioner } : {});
await producer.connect();
const messages = [...Array(+count).keys()].map((n) => ({
  key: `Counter/${prefix}-${n}`,
  value: '{"method":"increment","args":[1]}',
}));
await producer.send({ topic: `${app}.commands`, messages });
await producer.disconnect();
const consumer = kafka.consumer({ groupId: `${prefix}-readers` });
await consumer.connect();
await consumer.subscribe({ topic: `${app}.replies`, fromBeginning: true });
const answered = new Set();
setTimeout(() => process.exit(1), 60_000).unref();
await new Promise((all) =>
  consumer.run({
    eachMessage: async ({ message }) => {
      const key = `${message.key}`;
      if (!key.startsWith(`Counter/${prefix}-`)) return;
      answered.add(key);
      console.log(key, `${message.headers.outcome}`, `${message.value}`);
      if (answered.size === +count) all();
    },
  }),
);
await consumer.disconnect();
