// Two kafkajs members of one group: the second comes, the partitions are shared, it goes, the first has all again.
//     group.js HOST:PORT TOPIC GROUP COUNT     TOPIC has 4 partitions; prints "ok" and what it saw
const { Kafka, logLevel } = require('kafkajs');

const [, , broker, topic, groupId, countText] = process.argv;
const count = Number(countText);
const kafka = new Kafka({ clientId: 'js', brokers: [broker], logLevel: logLevel.NOTHING });
const seen = new Set();

async function until(what, condition) {
  const deadline = Date.now() + 60000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function member() {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 200, maxWaitTimeInMs: 200 });
  const state = { consumer, partitions: [] };
  consumer.on(consumer.events.GROUP_JOIN, (e) => { state.partitions = e.payload.memberAssignment[topic] || []; });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({ eachMessage: async ({ message }) => { seen.add(message.value.toString()); } });
  return state;
}

async function produce(from, to) {
  const producer = kafka.producer();
  await producer.connect();
  const messages = [];
  for (let i = from; i < to; i++) messages.push({ key: `k${i}`, value: `v${i}` });
  await producer.send({ topic, messages });
  await producer.disconnect();
}

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  await produce(0, count);
  const one = await member();
  await until('alone', () => one.partitions.length === 4 && seen.size === count);
  const two = await member();
  await until('shared', () => one.partitions.length === 2 && two.partitions.length === 2);
  await produce(count, 2 * count);
  await until('read by both', () => seen.size === 2 * count);

  const { groups } = await admin.describeGroups([groupId]);
  if (groups[0].state !== 'Stable' || groups[0].members.length !== 2) throw new Error(JSON.stringify(groups));
  const listed = await admin.listGroups();
  if (!listed.groups.some((g) => g.groupId === groupId && g.protocolType === 'consumer')) throw new Error('not listed');
  const refused = await admin.deleteGroups([groupId]).catch((e) => e);
  if (refused.name !== 'KafkaJSDeleteGroupsError') throw new Error(`deleted: ${refused}`);

  await two.consumer.disconnect();
  await until('alone again', () => one.partitions.length === 4);
  await produce(2 * count, 3 * count);
  await until('read alone', () => seen.size === 3 * count);
  await one.consumer.disconnect();
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] });
  const committed = partitions.reduce((sum, p) => sum + Number(p.offset), 0);
  if (committed !== 3 * count) throw new Error(`committed ${committed}`);
  await admin.resetOffsets({ groupId, topic, earliest: true });
  await admin.deleteGroups([groupId]);
  const after = await admin.fetchOffsets({ groupId, topics: [topic] });
  if (after[0].partitions.some((p) => p.offset !== '-1')) throw new Error('offsets stayed');
  await admin.disconnect();
  console.log(`ok ${seen.size}`);
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1); });
