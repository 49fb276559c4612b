// RocketMQ's side of bench/delay, run from source: java -cp CLASSPATH Rocketmq.java ready|send|consume NAMESRV [GROUP]
//
//   ready    ends when a message can be sent
//   send     says "ready", reads messages of 100 bytes to the end, sends each as a timer message due at its bytes 11 to 24,
//            says "done" when all are stored
//   consume  writes for each message the moment in milliseconds (13 digits) and its 100 bytes; and once, when all the topic's
//            queues are its own, "joined" in as many bytes
import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

public class Rocketmq {
    static final int SIZE = 100, IN_FLIGHT = 512, TRIES = 5;
    static final PrintStream OUT = System.out; // ours alone: the libraries' logging is sent elsewhere

    static DefaultMQProducer producer(String names) throws Exception {
        DefaultMQProducer p = new DefaultMQProducer("bench");
        p.setNamesrvAddr(names);
        p.setSendMsgTimeout(10000);
        p.start();
        return p;
    }

    static void ready(String names) throws Exception {
        DefaultMQProducer p = producer(names);
        while (true) {
            try {
                p.send(new Message("warm", new byte[SIZE]));
                break;
            } catch (Exception e) {
                Thread.sleep(200);
            }
        }
        p.shutdown();
    }

    static void sendOne(DefaultMQProducer p, byte[] body, Semaphore room, CountDownLatch left, AtomicInteger tries) {
        Message m = new Message("fired", body);
        m.setDeliverTimeMs(Long.parseLong(new String(body, 11, 13, StandardCharsets.US_ASCII)));
        SendCallback callback = new SendCallback() {
            public void onSuccess(SendResult r) {
                room.release();
                left.countDown();
            }
            public void onException(Throwable e) {
                if (tries.incrementAndGet() < TRIES) {
                    sendOne(p, body, room, left, tries);
                    return;
                }
                System.err.println(e);
                System.exit(1);
            }
        };
        try {
            p.send(m, callback);
        } catch (Exception e) {
            callback.onException(e);
        }
    }

    static void send(String names) throws Exception {
        DefaultMQProducer p = producer(names);
        OUT.println("ready");
        byte[] all = System.in.readAllBytes();
        Semaphore room = new Semaphore(IN_FLIGHT);
        CountDownLatch left = new CountDownLatch(all.length / SIZE);
        for (int at = 0; at < all.length; at += SIZE) {
            byte[] body = Arrays.copyOfRange(all, at, at + SIZE);
            room.acquire();
            sendOne(p, body, room, left, new AtomicInteger());
        }
        left.await();
        OUT.println("done");
        p.shutdown();
    }

    // A consumer asks every 20 seconds by itself which queues are its own; this asks at once, until they are.
    static void awaitQueues(DefaultMQPushConsumer c) throws Exception {
        while (true) {
            try {
                int all = c.fetchSubscribeMessageQueues("fired").size();
                if (all > 0 && c.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().size() == all) return;
                c.getDefaultMQPushConsumerImpl().doRebalance();
            } catch (Exception e) {
                System.err.println(e); // the topic's route is not known yet, or a busy broker did not answer in time
            }
            Thread.sleep(100);
        }
    }

    static void consume(String names, String group) throws Exception {
        PrintStream out = new PrintStream(new BufferedOutputStream(OUT, 1 << 16), false);
        DefaultMQPushConsumer c = new DefaultMQPushConsumer(group);
        c.setNamesrvAddr(names);
        c.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        c.setConsumeMessageBatchMaxSize(1000);
        c.subscribe("fired", "*");
        c.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            byte[] now = Long.toString(System.currentTimeMillis()).getBytes(StandardCharsets.US_ASCII);
            synchronized (out) {
                for (MessageExt m : messages) {
                    out.write(now, 0, now.length);
                    out.write(m.getBody(), 0, SIZE);
                }
                out.flush();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        c.start();
        awaitQueues(c);
        byte[] joined = Arrays.copyOf("joined".getBytes(StandardCharsets.US_ASCII), 13 + SIZE);
        synchronized (out) {
            out.write(joined, 0, joined.length);
            out.flush();
        }
        Thread.sleep(Long.MAX_VALUE);
    }

    public static void main(String[] args) throws Exception {
        System.setOut(System.err);
        if (args[0].equals("ready")) ready(args[1]);
        if (args[0].equals("send")) send(args[1]);
        if (args[0].equals("consume")) consume(args[1], args[2]);
        System.exit(0);
    }
}
