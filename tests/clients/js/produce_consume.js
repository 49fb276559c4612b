// kafkajs produces with and without gzip, idempotently too, creates and deletes topics, reads metadata and offsets.
//     produce_consume.js HOST:PORT TOPIC COUNT     prints "ok COUNT"; murmur2 partitions as "key partition" on stderr
const { Kafka, CompressionTypes, logLevel } = require('kafkajs');

const [, , broker, topic, countText] = process.argv;
const count = Number(countText);
const kafka = new Kafka({ clientId: 'js', brokers: [broker], logLevel: logLevel.ERROR });

function check(ok, what) {
  if (!ok) throw new Error(what);
}

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  check(await admin.createTopics({ topics: [{ topic, numPartitions: 4 }] }), 'created');
  check(!(await admin.createTopics({ topics: [{ topic, numPartitions: 4 }] })), 'exists');
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  check(topics[0].partitions.length === 4, 'partitions');

  for (const options of [{}, { idempotent: true, maxInFlightRequests: 1 }]) {
    const producer = kafka.producer(options);
    await producer.connect();
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const messages = [];
      for (let i = 0; i < count; i++) messages.push({ key: `key-${i}`, value: `value-${i}`, headers: { h: 'x' } });
      for (const r of await producer.send({ topic, messages, compression, acks: -1 })) check(r.errorCode === 0, 'sent');
    }
    await producer.disconnect();
  }
  const offsets = await admin.fetchTopicOffsets(topic);
  const total = offsets.reduce((sum, p) => sum + Number(p.high), 0);
  check(total === 4 * count, `offsets ${total}`);
  const later = await admin.fetchTopicOffsetsByTimestamp(topic, Date.now() + 3600000);
  check(later.every((p, i) => Number(p.offset) === Number(offsets[i].high) || Number(p.offset) === -1), 'later');

  await admin.createTopics({ topics: [{ topic: `${topic}-gone`, numPartitions: 1 }] });
  await admin.deleteTopics({ topics: [`${topic}-gone`] });
  const names = await admin.listTopics();
  check(names.includes(topic) && !names.includes(`${topic}-gone`), 'listed');
  await admin.disconnect();
  console.log(`ok ${total}`);
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
