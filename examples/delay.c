/* Sends one message that arrives later.
 *
 *     cc delay.c $(pkg-config --cflags --libs holdfast) -o delay
 *     ./delay 127.0.0.1:9092 reminders "pay your order" 1500
 *     kcat -C -b 127.0.0.1:9092 -t reminders -o beginning -e */
#include <holdfast/holdfast.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(void) {
    fprintf(stderr, "delay: %s\n", hf_errmsg());
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: delay SERVER TOPIC TEXT MILLISECONDS\n");
        return 2;
    }
    hf_client *c;
    if (hf_connect(argv[1], NULL, &c)) return fail();

    hf_receipt r;
    enum hf_err e = hf_send(c,
                            &(hf_message){.topic = argv[2],
                                          .key = HF_STR("1042"),
                                          .value = {argv[3], strlen(argv[3])},
                                          .delay_ms = atoll(argv[4]),
                                          .message_id = "order-1042/reminder"},
                            &r);
    if (!e) printf("accepted: %s/%d/%lld\n", r.topic, (int)r.partition, (long long)r.offset);
    hf_close(c);
    return e ? fail() : 0;
}
