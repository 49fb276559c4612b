// The same keys sent directly to one topic and, delayed, through holdfast.delay to another.
//     keys.js HOST:PORT DIRECT DELAYED COUNT     prints "ok COUNT"
const { Kafka, logLevel } = require('kafkajs');

const [, , broker, direct, delayed, countText] = process.argv;
const kafka = new Kafka({ clientId: 'js', brokers: [broker], logLevel: logLevel.ERROR });

async function main() {
  const keys = [];
  for (let i = 0; i < Number(countText); i++) keys.push(`${i % 2 ? 'order' : 'Bestellung-ß-'}-${i * 7919}`);
  const producer = kafka.producer();
  await producer.connect();
  await producer.send({ topic: direct, messages: keys.map((key) => ({ key, value: key })) });
  const headers = { 'hf-topic': delayed, 'hf-delay': '10ms' };
  await producer.send({ topic: 'holdfast.delay', messages: keys.map((key) => ({ key, value: key, headers })) });
  await producer.disconnect();
  console.log(`ok ${keys.length}`);
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
