#include "contract_internal.h"

static const hf_str ours = {"holdfast.delay", 14};
static const hf_str none = {NULL, 0};

void noted(void *arg, enum hf_err e) {
    struct note *n = arg;
    n->times++;
    n->e = e;
}

struct engine *eng(struct world *t) {
    return t->f->engine(t->w);
}

enum { STEPS_MAX = 100000 };

static void step_until(struct world *t, const struct note *n) {
    for (int i = 0; n->times == 0; i++) {
        assert_true(i < STEPS_MAX);
        t->f->step(t->w);
    }
    assert_int_equal(n->times, 1);
}

void start_commit(struct world *t, const struct engine_commit *c, struct note *n) {
    enum hf_err e;
    for (int i = 0; (e = engine_commit(eng(t), c, noted, n)) == HF_EAGAIN; i++) {
        assert_true(i < STEPS_MAX);
        t->f->step(t->w);
    }
    assert_int_equal(e, HF_OK);
}

void must_commit(struct world *t, const struct engine_commit *c) {
    struct note n = {0};
    start_commit(t, c, &n);
    step_until(t, &n);
    assert_int_equal(n.e, HF_OK);
}

int64_t stable_end(struct world *t, hf_str topic, int32_t partition) {
    int64_t start = -1, end = -1;
    assert_int_equal(engine_bounds(eng(t), topic, partition, &start, &end), HF_OK);
    assert_true(start >= 0 && start <= end);
    return end;
}

static int64_t start_of(struct world *t, hf_str topic, int32_t partition) {
    int64_t start = -1, end = -1;
    assert_int_equal(engine_bounds(eng(t), topic, partition, &start, &end), HF_OK);
    return start;
}

void must_append(struct world *t, hf_str topic, int32_t partition, int64_t now_ms, hf_str key, hf_str value) {
    int64_t before = stable_end(t, topic, partition);
    t->f->append(t->w, topic, partition, now_ms, key, value, NULL, 0);
    for (int i = 0; stable_end(t, topic, partition) == before; i++) {
        assert_true(i < STEPS_MAX);
        t->f->step(t->w);
    }
}

static struct engine_cursor *cursor_at(struct world *t, hf_str topic, int32_t partition, int64_t offset) {
    struct engine_cursor *c = NULL;
    assert_int_equal(engine_cursor_open(eng(t), topic, partition, &c), HF_OK);
    engine_cursor_seek(c, offset);
    return c;
}

size_t count_records(struct world *t, hf_str topic, int32_t partition) {
    struct engine_cursor *c = cursor_at(t, topic, partition, 0);
    struct engine_record r;
    size_t n = 0;
    enum hf_err e;
    while (!(e = engine_cursor_next(c, &r))) n++;
    assert_int_equal(e, HF_EEND);
    engine_cursor_close(c);
    return n;
}

uint64_t sealed_run(struct world *t, uint64_t bucket, size_t n) {
    struct engine_run_writer *w = NULL;
    uint8_t bytes[256];
    uint64_t id = 0;
    struct note sealed = {0};
    assert_int_equal(engine_run_begin(eng(t), bucket, &w), HF_OK);
    for (size_t at = 0; at < n;) {
        size_t part = n - at < sizeof bytes ? n - at : sizeof bytes;
        for (size_t i = 0; i < part; i++) bytes[i] = (uint8_t)((at + i) * 7);
        assert_int_equal(engine_run_append(w, bytes, part), HF_OK);
        at += part;
    }
    engine_run_seal(w, &id, noted, &sealed);
    assert_int_equal(sealed.times, 0); /* never inside the call */
    step_until(t, &sealed);
    assert_int_equal(sealed.e, HF_OK);
    return id;
}

/* ---- commit ---- */

static void a_commit_over_partitions_and_state_is_seen_whole_or_not_at_all(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 2);
    t->f->topic_create(t->w, HF_STR("b"), 1);
    for (int round = 1; round <= 20; round++) {
        const struct hf_header h[] = {{HF_STR("h"), HF_STR("1")}, {HF_STR("h"), none}};
        const struct engine_out outs[] = {{HF_STR("a"), 0, HF_STR("k"), HF_STR("v"), h, 2},
                                          {HF_STR("b"), 0, none, HF_STR(""), NULL, 0},
                                          {HF_STR("a"), 1, HF_STR(""), none, NULL, 0}};
        uint8_t number = (uint8_t)round;
        const struct engine_put put = {HF_STR("round"), hf_str_make(&number, 1)};
        struct note n = {0};
        start_commit(t,
                     &(struct engine_commit){
                         .now_ms = 1000 + round, .outs = outs, .out_count = 3, .puts = &put, .put_count = 1},
                     &n);
        assert_int_equal(n.times, 0); /* never inside the call */
        for (int i = 0; n.times == 0; i++) {
            assert_true(i < STEPS_MAX);
            t->f->step(t->w);
            hf_str seen = engine_state_get(eng(t), HF_STR("round"));
            size_t whole = seen.n ? (size_t)(uint8_t)seen.p[0] : 0;
            assert_int_equal(count_records(t, HF_STR("a"), 0), whole);
            assert_int_equal(count_records(t, HF_STR("a"), 1), whole);
            assert_int_equal(count_records(t, HF_STR("b"), 0), whole);
        }
        assert_int_equal(n.e, HF_OK);
        assert_int_equal(engine_state_get(eng(t), HF_STR("round")).p[0], round);
    }
}

static void records_of_a_commit_arrive_unchanged_with_its_time(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 1);
    const struct hf_header h[] = {{HF_STR("h"), HF_STR("1")}, {HF_STR("h"), none}, {HF_STR(""), HF_STR("")}};
    const struct engine_out outs[] = {{HF_STR("a"), 0, HF_STR("k"), HF_STR("v"), h, 3},
                                      {HF_STR("a"), 0, none, HF_STR(""), NULL, 0}};
    must_commit(t, &(struct engine_commit){.now_ms = 123456, .outs = outs, .out_count = 2});
    struct engine_cursor *c = cursor_at(t, HF_STR("a"), 0, 0);
    struct engine_record r;
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(r.timestamp_ms == 123456);
    assert_true(hf_str_is(r.key, "k") && hf_str_is(r.value, "v"));
    assert_int_equal(r.header_count, 3);
    assert_true(hf_str_is(r.headers[0].key, "h") && hf_str_is(r.headers[0].value, "1"));
    assert_true(hf_str_is(r.headers[1].key, "h") && r.headers[1].value.p == NULL);
    assert_true(r.headers[2].key.p && r.headers[2].value.p && r.headers[2].key.n + r.headers[2].value.n == 0);
    int64_t first = r.offset;
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(r.offset > first && r.key.p == NULL && r.value.p && r.value.n == 0 && r.header_count == 0);
    assert_int_equal(engine_cursor_next(c, &r), HF_EEND);
    engine_cursor_close(c);
}

static void commits_take_effect_in_the_order_of_their_start(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 3);
    enum { COMMITS = 40 };
    struct note notes[COMMITS] = {0};
    int last = -1, started = 0;
    for (int i = 0; last < COMMITS - 1; i++) {
        assert_true(i < STEPS_MAX);
        if (started < COMMITS) {
            uint8_t number = (uint8_t)started;
            const struct engine_out out = {HF_STR("a"), started % 3, none, hf_str_make(&number, 1), NULL, 0};
            const struct engine_put put = {HF_STR("last"), hf_str_make(&number, 1)};
            start_commit(t,
                         &(struct engine_commit){
                             .now_ms = 5, .outs = &out, .out_count = 1, .puts = &put, .put_count = 1},
                         &notes[started]);
            started++;
        }
        if (i % 3 == 0) t->f->step(t->w);
        hf_str seen = engine_state_get(eng(t), HF_STR("last"));
        int now = seen.n ? (uint8_t)seen.p[0] : -1;
        assert_true(now >= last && now < started);
        size_t records = 0;
        for (int32_t p = 0; p < 3; p++) records += count_records(t, HF_STR("a"), p);
        assert_int_equal(records, now + 1);
        for (int k = now + 1; k < started; k++) assert_int_equal(notes[k].times, 0);
        last = now;
    }
    for (int i = 0; i < COMMITS; i++) {
        step_until(t, &notes[i]);
        assert_int_equal(notes[i].e, HF_OK);
    }
}

static void what_cannot_be_committed_is_refused_at_once_and_whole(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 1);
    struct engine_out outs[] = {{HF_STR("a"), 0, none, HF_STR("v"), NULL, 0}, {none, 0, none, none, NULL, 0}};
    const struct engine_put put = {HF_STR("k"), HF_STR("v")};
    const struct engine_commit c = {.now_ms = 1, .outs = outs, .out_count = 2, .puts = &put, .put_count = 1};
    struct note n = {0};
    outs[1] = (struct engine_out){HF_STR("missing"), 0, none, HF_STR("v"), NULL, 0};
    assert_int_equal(engine_commit(eng(t), &c, noted, &n), HF_ENOTFOUND);
    outs[1] = (struct engine_out){HF_STR("a"), 1, none, HF_STR("v"), NULL, 0};
    assert_int_equal(engine_commit(eng(t), &c, noted, &n), HF_ENOTFOUND);
    char *large = calloc(1, CONTRACT_RECORD_MAX + 1);
    assert_non_null(large);
    outs[1] = (struct engine_out){HF_STR("a"), 0, none, hf_str_make(large, CONTRACT_RECORD_MAX + 1), NULL, 0};
    assert_int_equal(engine_commit(eng(t), &c, noted, &n), HF_ELIMIT);
    const struct engine_put too_large = {HF_STR("k"), hf_str_make(large, (64 << 10) + 1)};
    assert_int_equal(
        engine_commit(eng(t), &(struct engine_commit){.puts = &too_large, .put_count = 1}, noted, &n),
        HF_ELIMIT);
    free(large);
    struct note after = {0};
    start_commit(t, &(struct engine_commit){.now_ms = 1, .outs = outs, .out_count = 1}, &after);
    step_until(t, &after);
    assert_int_equal(n.times, 0);
    assert_int_equal(count_records(t, HF_STR("a"), 0), 1);
    assert_null(engine_state_get(eng(t), HF_STR("k")).p);
}

static void a_commit_as_large_as_allowed_goes_through(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, HF_STR("a"), 1);
    enum { VALUE = 60000, MANY = 130 }; /* just below ENGINE_COMMIT_BYTES */
    struct engine_out outs[MANY];
    char *value = calloc(1, VALUE);
    assert_non_null(value);
    for (int i = 0; i < MANY; i++)
        outs[i] = (struct engine_out){HF_STR("a"), 0, none, hf_str_make(value, VALUE), NULL, 0};
    must_commit(t, &(struct engine_commit){.now_ms = 1, .outs = outs, .out_count = MANY});
    assert_int_equal(count_records(t, HF_STR("a"), 0), MANY);
    free(value);
}

/* ---- topics ---- */

static void topics_are_created_on_demand_if_the_name_allows(void **state) {
    struct world *t = *state;
    int32_t partitions = -7;
    assert_int_equal(engine_topic(eng(t), HF_STR("new"), false, &partitions), HF_ENOTFOUND);
    assert_int_equal(engine_record_max(eng(t), HF_STR("new")), 0);
    assert_int_equal(engine_topic(eng(t), HF_STR("no/name"), true, &partitions), HF_ENOTFOUND);
    assert_int_equal(partitions, -7);
    enum hf_err e = engine_topic(eng(t), HF_STR("new"), true, &partitions);
    assert_int_equal(e, HF_EAGAIN);
    for (int i = 0; e == HF_EAGAIN; i++) {
        assert_true(i < STEPS_MAX);
        t->f->step(t->w);
        e = engine_topic(eng(t), HF_STR("new"), true, &partitions);
    }
    assert_int_equal(e, HF_OK);
    assert_int_equal(partitions, 1);
    assert_int_equal(engine_record_max(eng(t), HF_STR("new")), CONTRACT_RECORD_MAX);
    assert_true(stable_end(t, HF_STR("new"), 0) == 0);
    struct engine_cursor *c;
    int64_t start, end;
    assert_int_equal(engine_cursor_open(eng(t), HF_STR("new"), 1, &c), HF_ENOTFOUND);
    assert_int_equal(engine_bounds(eng(t), HF_STR("new"), -1, &start, &end), HF_ENOTFOUND);
}

/* ---- read ---- */

static void a_cursor_gives_records_at_or_after_its_place(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, ours, 1);
    for (int i = 0; i < 30; i++) {
        uint8_t number = (uint8_t)i;
        must_append(t, ours, 0, 100 + i, none, hf_str_make(&number, 1));
    }
    struct engine_cursor *c = cursor_at(t, ours, 0, 0);
    struct engine_record r;
    int64_t offsets[30];
    for (int i = 0; i < 30; i++) {
        assert_int_equal(engine_cursor_next(c, &r), HF_OK);
        assert_int_equal((uint8_t)r.value.p[0], i);
        offsets[i] = r.offset;
    }
    assert_int_equal(engine_cursor_next(c, &r), HF_EEND);
    static const int places[] = {29, 0, 7, 8, 9, 3, 28};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        engine_cursor_seek(c, offsets[places[i]]);
        assert_int_equal(engine_cursor_next(c, &r), HF_OK);
        assert_true(r.offset == offsets[places[i]]);
    }
    engine_cursor_seek(c, stable_end(t, ours, 0));
    assert_int_equal(engine_cursor_next(c, &r), HF_EEND);
    must_append(t, ours, 0, 200, none, HF_STR("late")); /* the same cursor goes on */
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(hf_str_is(r.value, "late"));
    engine_cursor_close(c);
}

/* Two partitions, read as they come; stable_ms was asked before each step. */
static void sequences_and_times_follow_the_order_of_acceptance(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, ours, 2);
    struct engine_cursor *c[2] = {cursor_at(t, ours, 0, 0), cursor_at(t, ours, 1, 0)};
    enum { MANY = 60 };
    struct engine_record seen[MANY];
    size_t appended = 0, read = 0;
    int64_t bound = INT64_MIN;
    for (int i = 0; read < MANY; i++) {
        assert_true(i < STEPS_MAX);
        struct engine_record r;
        for (int p = 0; p < 2; p++)
            while (!engine_cursor_next(c[p], &r)) {
                assert_true(r.timestamp_ms >= bound);
                seen[read++] = r;
            }
        if (appended < MANY) {
            uint8_t number = (uint8_t)appended;
            t->f->append(t->w, ours, (int32_t)(appended * 7 / 3 % 2), (int64_t)(1000 + appended / 2), none,
                         hf_str_make(&number, 1), NULL, 0);
            appended++;
        }
        int64_t now = engine_stable_ms(eng(t), ours);
        bound = now == INT64_MAX ? bound : now;
        if (i % 2) t->f->step(t->w);
    }
    for (size_t i = 0; i < MANY; i++)
        for (size_t k = 0; k < MANY; k++) {
            assert_true(seen[i].sequence >= 1);
            if (i == k) continue;
            assert_true(seen[i].sequence != seen[k].sequence);
            if (seen[i].sequence < seen[k].sequence)
                assert_true(seen[i].timestamp_ms <= seen[k].timestamp_ms);
        }
    engine_cursor_close(c[0]);
    engine_cursor_close(c[1]);
}

static void a_time_floor_holds_for_what_is_accepted_from_then_on(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, ours, 2);
    must_append(t, ours, 0, 1000, none, HF_STR("before"));
    struct engine_cursor *c = cursor_at(t, ours, 0, 0);
    struct engine_record r;
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    int64_t floor = r.timestamp_ms + HF_HOURS(1);
    engine_time_floor(eng(t), ours, floor);
    for (int32_t p = 0; p < 2; p++) must_append(t, ours, p, 1001, none, HF_STR("after"));
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(r.timestamp_ms >= floor);
    engine_cursor_close(c);
}

static void set_flag(void *arg) {
    *(volatile int *)arg += 1;
}

static void a_watcher_is_called_when_records_became_readable(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, ours, 1);
    volatile int called = 0;
    engine_watch(eng(t), ours, set_flag, (void *)&called);
    for (int round = 0; round < 5; round++) {
        called = 0;
        must_append(t, ours, 0, 10 + round, none, HF_STR("v"));
        for (int i = 0; called == 0; i++) {
            assert_true(i < STEPS_MAX);
            t->f->step(t->w);
        }
    }
    engine_watch(eng(t), ours, NULL, NULL);
    called = 0;
    must_append(t, ours, 0, 99, none, HF_STR("v"));
    for (int i = 0; i < 10; i++) t->f->step(t->w);
    assert_int_equal(called, 0);
}

/* ---- state ---- */

struct listing {
    char text[256];
};

static void list_pair(void *arg, hf_str key, hf_str value) {
    struct listing *l = arg;
    size_t n = strlen(l->text);
    snprintf(l->text + n, sizeof l->text - n, "%.*s=%.*s ", (int)key.n, key.p, (int)value.n, value.p);
}

static void state_is_listed_by_prefix_in_order_of_keys(void **state) {
    struct world *t = *state;
    static const char *const keys[] = {"b/2", "a", "b/10", "b", "c", "b/1"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct engine_put put = {hf_str_of(keys[i]), hf_str_of(keys[i])};
        must_commit(t, &(struct engine_commit){.puts = &put, .put_count = 1});
    }
    const struct engine_put more[] = {
        {HF_STR("b/1"), HF_STR("new")}, {HF_STR("b/2"), none}, {HF_STR("b/3"), HF_STR("")}};
    must_commit(t, &(struct engine_commit){.puts = more, .put_count = 3});
    struct listing l = {""};
    engine_state_each(eng(t), HF_STR("b/"), list_pair, &l);
    assert_string_equal(l.text, "b/1=new b/10=b/10 b/3= ");
    assert_true(hf_str_is(engine_state_get(eng(t), HF_STR("b/1")), "new"));
    assert_null(engine_state_get(eng(t), HF_STR("b/2")).p);
    hf_str empty = engine_state_get(eng(t), HF_STR("b/3"));
    assert_true(empty.p && empty.n == 0);
    char *large = malloc(64 << 10);
    assert_non_null(large);
    memset(large, 'x', 64 << 10);
    const struct engine_put put = {HF_STR("large"), hf_str_make(large, 64 << 10)};
    must_commit(t, &(struct engine_commit){.puts = &put, .put_count = 1});
    assert_true(hf_str_eq(engine_state_get(eng(t), HF_STR("large")), put.value));
    free(large);
}

static void committed_offsets_are_read_from_their_key(void **state) {
    struct world *t = *state;
    uint8_t value[12] = {0};
    struct hf_buf key;
    hf_buf_init(&key, 1024);
    engine_offset_key(&key, HF_STR("g"), HF_STR("t"), 3);
    hf_put_be64(value, 77);
    const struct engine_put put = {hf_buf_view(&key), hf_str_make(value, sizeof value)};
    assert_true(engine_committed(eng(t), HF_STR("g"), HF_STR("t"), 3) == -1);
    must_commit(t, &(struct engine_commit){.puts = &put, .put_count = 1});
    assert_true(engine_committed(eng(t), HF_STR("g"), HF_STR("t"), 3) == 77);
    assert_true(engine_committed(eng(t), HF_STR("g"), HF_STR("t"), 4) == -1);
    hf_buf_fini(&key);
}

/* ---- low-water ---- */

static void a_low_water_releases_only_what_lies_below(void **state) {
    struct world *t = *state;
    t->f->topic_create(t->w, ours, 1);
    for (int i = 0; i < 20; i++) must_append(t, ours, 0, 100 + i, none, HF_STR("v"));
    int64_t end = stable_end(t, ours, 0), low = end - 7;
    const struct engine_low_water mark = {ours, 0, low};
    must_commit(t, &(struct engine_commit){.low_waters = &mark, .low_water_count = 1});
    assert_true(start_of(t, ours, 0) <= low);
    assert_true(stable_end(t, ours, 0) == end);
    struct engine_cursor *c = cursor_at(t, ours, 0, low);
    struct engine_record r;
    for (int i = 0; i < 7; i++) assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_int_equal(engine_cursor_next(c, &r), HF_EEND);
    engine_cursor_seek(c, 0);
    assert_int_equal(engine_cursor_next(c, &r), HF_OK);
    assert_true(r.offset >= start_of(t, ours, 0));
    engine_cursor_close(c);
}

/* ---- runs ---- */

struct runs {
    size_t n;
    uint64_t id[8], bucket[8], bytes[8];
};

static void list_run(void *arg, uint64_t id, uint64_t bucket, uint64_t bytes) {
    struct runs *l = arg;
    assert_true(l->n < 8);
    assert_true(l->n == 0 || l->id[l->n - 1] < id);
    l->id[l->n] = id;
    l->bucket[l->n] = bucket;
    l->bytes[l->n++] = bytes;
}

static void a_run_exists_from_its_commit_to_the_next_that_drops_it(void **state) {
    struct world *t = *state;
    uint64_t ids[2] = {sealed_run(t, 11, 100000), sealed_run(t, 12, 1)};
    assert_true(ids[0] != ids[1]);
    struct runs l = {0};
    engine_run_each(eng(t), list_run, &l);
    assert_int_equal(l.n, 0);
    must_commit(t, &(struct engine_commit){.runs_added = ids, .runs_added_count = 2});
    engine_run_each(eng(t), list_run, &l);
    assert_int_equal(l.n, 2);
    assert_true(l.bucket[0] + l.bucket[1] == 23 && l.bytes[0] + l.bytes[1] == 100001);
    uint8_t bytes[1000];
    for (uint64_t at = 0; at <= 99000; at += 9900) {
        assert_int_equal(engine_run_read(eng(t), ids[0], at, bytes, sizeof bytes), HF_OK);
        for (size_t i = 0; i < sizeof bytes; i++) assert_int_equal(bytes[i], (uint8_t)((at + i) * 7));
    }
    assert_int_equal(engine_run_read(eng(t), ids[0], 99001, bytes, sizeof bytes), HF_EEND);
    assert_int_equal(engine_run_read(eng(t), ids[0], UINT64_MAX, bytes, sizeof bytes), HF_EEND);
    uint64_t replacement = sealed_run(t, 11, 5);
    must_commit(t, &(struct engine_commit){.runs_added = &replacement,
                                           .runs_added_count = 1,
                                           .runs_dropped = ids,
                                           .runs_dropped_count = 1});
    assert_int_equal(engine_run_read(eng(t), ids[0], 0, bytes, 1), HF_ENOTFOUND);
    l.n = 0;
    engine_run_each(eng(t), list_run, &l);
    assert_int_equal(l.n, 2);
    assert_true((l.id[0] == ids[1] && l.id[1] == replacement) ||
                (l.id[1] == ids[1] && l.id[0] == replacement));
}

static void a_run_that_nobody_named_can_be_discarded_and_no_other(void **state) {
    struct world *t = *state;
    uint64_t named = sealed_run(t, 11, 10), unnamed = sealed_run(t, 11, 10);
    uint8_t byte;
    must_commit(t, &(struct engine_commit){.runs_added = &named, .runs_added_count = 1});
    engine_run_discard(eng(t), named);
    engine_run_discard(eng(t), unnamed);
    engine_run_discard(eng(t), unnamed);
    engine_run_discard(eng(t), 12345678);
    assert_int_equal(engine_run_read(eng(t), named, 9, &byte, 1), HF_OK);
    assert_int_equal(engine_run_read(eng(t), unnamed, 9, &byte, 1), HF_ENOTFOUND);
}

static void an_aborted_run_never_was(void **state) {
    struct world *t = *state;
    struct engine_run_writer *w = NULL;
    assert_int_equal(engine_run_begin(eng(t), 1, &w), HF_OK);
    assert_int_equal(engine_run_append(w, "abc", 3), HF_OK);
    engine_run_abort(w);
    struct runs l = {0};
    engine_run_each(eng(t), list_run, &l);
    assert_int_equal(l.n, 0);
}

/* ---- running them ---- */

static const struct CMUnitTest tests[] = {
    CONTRACT_TEST(a_commit_over_partitions_and_state_is_seen_whole_or_not_at_all),
    CONTRACT_TEST(records_of_a_commit_arrive_unchanged_with_its_time),
    CONTRACT_TEST(commits_take_effect_in_the_order_of_their_start),
    CONTRACT_TEST(what_cannot_be_committed_is_refused_at_once_and_whole),
    CONTRACT_TEST(a_commit_as_large_as_allowed_goes_through),
    CONTRACT_TEST(topics_are_created_on_demand_if_the_name_allows),
    CONTRACT_TEST(a_cursor_gives_records_at_or_after_its_place),
    CONTRACT_TEST(sequences_and_times_follow_the_order_of_acceptance),
    CONTRACT_TEST(a_time_floor_holds_for_what_is_accepted_from_then_on),
    CONTRACT_TEST(a_watcher_is_called_when_records_became_readable),
    CONTRACT_TEST(state_is_listed_by_prefix_in_order_of_keys),
    CONTRACT_TEST(committed_offsets_are_read_from_their_key),
    CONTRACT_TEST(a_low_water_releases_only_what_lies_below),
    CONTRACT_TEST(a_run_exists_from_its_commit_to_the_next_that_drops_it),
    CONTRACT_TEST(an_aborted_run_never_was),
    CONTRACT_TEST(a_run_that_nobody_named_can_be_discarded_and_no_other),
};
enum { TESTS = sizeof tests / sizeof tests[0] };

/* cmocka hands a test's initial state to its setup, where the world is made. */
static int world_open(void **state) {
    struct world *t = *state;
    t->w = t->f->open(t->seed);
    return t->w ? 0 : -1;
}

static int world_close(void **state) {
    struct world *t = *state;
    t->f->close(t->w);
    return 0;
}

int engine_contract_run(const struct contract_factory *factory, uint64_t first, uint64_t count) {
    struct CMUnitTest all[64];
    size_t n = 0;
    assert_true(TESTS + contract_restart_count <= 64);
    struct world t = {.f = factory};
    for (size_t i = 0; i < TESTS; i++) all[n++] = tests[i];
    for (size_t i = 0; i < contract_restart_count; i++) all[n++] = contract_restart_tests[i];
    for (size_t i = 0; i < n; i++) {
        all[i].setup_func = world_open;
        all[i].teardown_func = world_close;
        all[i].initial_state = &t;
    }
    int failures = 0;
    for (t.seed = first; t.seed < first + count && !failures; t.seed++) {
        failures = _cmocka_run_group_tests(factory->name, all, n, NULL, NULL);
        if (failures) print_error("%s engine: seed %llu\n", factory->name, (unsigned long long)t.seed);
    }
    return failures;
}
