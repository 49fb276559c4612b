/* The contract suite on the simulated machine, and what only it can do: crash, fail, repeat itself. */
#include "contract.h"
#include "env/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SEEDS = 200 };

static void sim_machine_open(struct contract_machine *m) {
    struct hf_sim *sim;
    assert_int_equal(hf_sim_open(1, &(struct hf_sim_options){0}, &sim), HF_OK);
    m->more = sim;
    m->env = hf_sim_env(sim);
}

static void sim_machine_close(struct contract_machine *m) {
    hf_sim_check(m->more);
    hf_env_close(m->env);
    hf_sim_close(m->more);
}

static struct hf_sim *machine(uint64_t seed) {
    struct hf_sim *sim;
    assert_int_equal(hf_sim_open(seed, &(struct hf_sim_options){0}, &sim), HF_OK);
    return sim;
}

static struct hf_file *opened(struct hf_sim *sim, const char *path, unsigned flags) {
    struct hf_file *f = NULL;
    assert_int_equal(env_open(hf_sim_env(sim), path, flags, &f), HF_OK);
    return f;
}

static bool exists(struct hf_sim *sim, const char *path) {
    struct hf_file *f;
    if (env_open(hf_sim_env(sim), path, ENV_READ, &f)) return false;
    env_close(f);
    return true;
}

/* The file's bytes, zero-terminated; "-" if there is none. */
static const char *bytes_of(struct hf_sim *sim, const char *path) {
    static char text[8192];
    struct hf_file *f;
    size_t n = 0;
    if (env_open(hf_sim_env(sim), path, ENV_READ, &f)) return "-";
    assert_int_equal(env_read(f, 0, text, sizeof text - 1, &n), HF_OK);
    text[n] = 0;
    env_close(f);
    return text;
}

static void synced(struct hf_sim *sim, struct hf_file *f, const char *dir) {
    assert_int_equal(env_sync_wait(hf_sim_env(sim), f, dir), HF_OK);
}

static void crash(struct hf_sim *sim, enum hf_sim_crash kind) {
    hf_sim_crash(sim, kind);
    hf_sim_restart(sim);
    hf_sim_check(sim);
}

static void write_all(struct hf_file *f, const char *text) {
    assert_int_equal(env_write(f, 0, text, strlen(text)), HF_OK);
}

static void power_loss_keeps_what_was_synced(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        write_all(f, "synced");
        synced(sim, f, NULL);
        synced(sim, NULL, ".");
        env_close(f);
        crash(sim, HF_SIM_PROCESS_DEATH);
        crash(sim, HF_SIM_POWER_LOSS);
        assert_string_equal(bytes_of(sim, "a"), "synced");
        hf_sim_close(sim);
    }
}

static void power_loss_may_keep_any_state_since_the_last_sync(void **state) {
    (void)state;
    int seen[4] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        synced(sim, NULL, ".");
        static const char *const states[] = {"one", "two", "six", "ten"};
        write_all(f, states[0]);
        synced(sim, f, NULL);
        for (int i = 1; i < 4; i++) write_all(f, states[i]);
        env_close(f);
        crash(sim, HF_SIM_POWER_LOSS);
        const char *left = bytes_of(sim, "a");
        int which = 0;
        while (which < 4 && strcmp(left, states[which]) != 0) which++;
        assert_in_range(which, 0, 3);
        seen[which]++;
        hf_sim_close(sim);
    }
    for (int i = 0; i < 4; i++) assert_true(seen[i] > 0);
}

static void a_power_loss_tears_at_sectors_only(void **state) {
    (void)state;
    int torn = 0;
    static char old[4097], new[4097];
    memset(old, 'o', 4096);
    memset(new, 'n', 4096);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        write_all(f, old);
        synced(sim, f, NULL);
        synced(sim, NULL, ".");
        write_all(f, new);
        env_close(f);
        crash(sim, HF_SIM_POWER_LOSS);
        const char *left = bytes_of(sim, "a");
        for (int s = 0; s < 8; s++) {
            for (int i = 1; i < HF_SECTOR; i++)
                assert_int_equal(left[s * HF_SECTOR + i], left[s * HF_SECTOR]);
            torn += left[s * HF_SECTOR] != left[0];
        }
        hf_sim_close(sim);
    }
    assert_true(torn > 0);
}

static void the_size_may_be_new_and_the_bytes_lost(void **state) {
    (void)state;
    int zeros = 0, shorter = 0, whole = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        uint64_t size;
        char c = 0;
        size_t n;
        synced(sim, NULL, ".");
        assert_int_equal(env_allocate(f, 0, 4096), HF_OK);
        assert_int_equal(env_write(f, 1000, "x", 1), HF_OK);
        env_close(f);
        crash(sim, HF_SIM_POWER_LOSS);
        f = opened(sim, "a", ENV_READ);
        assert_int_equal(env_size(f, &size), HF_OK);
        assert_int_equal(env_read(f, 1000, &c, 1, &n), HF_OK);
        shorter += size == 0;
        zeros += size == 4096 && c == 0;
        whole += size == 4096 && c == 'x';
        env_close(f);
        hf_sim_close(sim);
    }
    assert_true(zeros > 0 && shorter > 0 && whole > 0);
}

static void process_death_keeps_all_but_a_prefix_of_the_last_store(void **state) {
    (void)state;
    bool seen[7] = {0};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        assert_int_equal(env_allocate(f, 0, 4096), HF_OK);
        assert_int_equal(env_write(f, 0, "before", 6), HF_OK);
        hf_sim_crash_at(sim, 1, HF_SIM_PROCESS_DEATH);
        assert_int_equal(env_write(f, 0, "AFTER!", 6), HF_ECRASHED);
        assert_true(hf_sim_dead(sim));
        assert_string_equal(hf_sim_crashed_at(sim), "op.write");
        assert_int_equal(env_write(f, 20, "dead", 4), HF_ECRASHED);
        env_close(f);
        hf_sim_restart(sim);
        const char *left = bytes_of(sim, "a");
        size_t n = 0;
        while (n < 6 && left[n] == "AFTER!"[n]) n++;
        assert_string_equal(left + n, &"before"[n]);
        seen[n] = true;
        hf_sim_close(sim);
    }
    for (size_t n = 0; n <= 6; n++) assert_true(seen[n]);
}

static void sync_flag(struct env_sync *r, enum hf_err e) {
    assert_int_equal(e, HF_OK);
    *(bool *)r->arg = true;
}

static void a_sync_covers_what_was_written_before_it_began(void **state) {
    (void)state;
    int later = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        synced(sim, NULL, ".");
        bool ended = false;
        write_all(f, "a");
        assert_int_equal(env_write(f, 600, "b", 1), HF_OK);
        struct env_sync s;
        struct hf_env *env = hf_sim_env(sim);
        s = (struct env_sync){.file = f, .done = sync_flag, .arg = &ended};
        env_sync_begin(env, &s);
        write_all(f, "A"); /* not covered */
        while (!ended) assert_int_not_equal(env_wait(env), 0);
        env_close(f);
        crash(sim, HF_SIM_POWER_LOSS);
        const char *left = bytes_of(sim, "a");
        assert_int_equal(left[600], 'b');
        assert_true(left[0] == 'a' || left[0] == 'A');
        later += left[0] == 'A';
        hf_sim_close(sim);
    }
    assert_in_range(later, 1, SEEDS - 1);
}

static void names_are_durable_by_their_folder_only(void **state) {
    (void)state;
    int lost_file = 0, lost_rename = 0, lost_unlink = 0, kept = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_env *env = hf_sim_env(sim);
        struct hf_file *f;
        static const char *const names[] = {"old", "gone", "d/new", NULL};
        assert_int_equal(env_mkdir(env, "d"), HF_OK);
        for (size_t i = 0; i < 2; i++) {
            f = opened(sim, names[i], ENV_CREATE);
            write_all(f, names[i]);
            synced(sim, f, NULL);
            env_close(f);
        }
        synced(sim, NULL, ".");
        f = opened(sim, "d/new", ENV_CREATE);
        write_all(f, "new");
        synced(sim, f, NULL); /* its bytes, not its name */
        env_close(f);
        assert_int_equal(env_rename(env, "old", "renamed"), HF_OK);
        assert_int_equal(env_unlink(env, "gone"), HF_OK);
        crash(sim, HF_SIM_POWER_LOSS);
        assert_true(exists(sim, "old") != exists(sim, "renamed")); /* atomic */
        assert_string_equal(bytes_of(sim, exists(sim, "old") ? "old" : "renamed"), "old");
        lost_file += !exists(sim, "d/new");
        lost_rename += exists(sim, "old");
        lost_unlink += exists(sim, "gone");
        kept += exists(sim, "d/new") && exists(sim, "renamed") && !exists(sim, "gone");
        if (exists(sim, "d/new")) assert_string_equal(bytes_of(sim, "d/new"), "new");
        hf_sim_close(sim);
    }
    assert_true(lost_file > 0 && lost_rename > 0 && lost_unlink > 0 && kept > 0);
}

static void synced_names_stay(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_env *env = hf_sim_env(sim);
        assert_int_equal(env_mkdir(env, "d"), HF_OK);
        env_close(opened(sim, "a", ENV_CREATE));
        env_close(opened(sim, "b", ENV_CREATE));
        synced(sim, NULL, ".");
        assert_int_equal(env_rename(env, "a", "d/a"), HF_OK);
        assert_int_equal(env_unlink(env, "b"), HF_OK);
        synced(sim, NULL, "d");
        synced(sim, NULL, ".");
        crash(sim, HF_SIM_POWER_LOSS);
        assert_true(exists(sim, "d/a") && !exists(sim, "a") && !exists(sim, "b"));
        hf_sim_close(sim);
    }
}

static void a_file_in_a_lost_folder_is_gone(void **state) {
    (void)state;
    int gone = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        assert_int_equal(env_mkdir(hf_sim_env(sim), "d"), HF_OK);
        env_close(opened(sim, "d/a", ENV_CREATE));
        synced(sim, NULL, "d");
        crash(sim, HF_SIM_POWER_LOSS);
        gone += !exists(sim, "d/a");
        hf_sim_close(sim);
    }
    assert_in_range(gone, 1, SEEDS - 1);
}

static void a_failed_sync_leaves_bytes_readable_and_lost(void **state) {
    (void)state;
    int lost = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct hf_sim *sim = machine(seed);
        struct hf_env *env = hf_sim_env(sim);
        struct hf_file *f = opened(sim, "a", ENV_CREATE);
        uint8_t *page = aligned_alloc(4096, 4096);
        size_t n;
        assert_non_null(page);
        assert_int_equal(env_allocate(f, 0, 4096), HF_OK);
        synced(sim, f, NULL);
        synced(sim, NULL, ".");
        write_all(f, "lost");
        hf_sim_fail_at(sim, 1, HF_EIO);
        assert_int_equal(env_sync_wait(env, f, NULL), HF_EIO);
        assert_true(hf_sim_failed(sim));
        assert_memory_equal(bytes_of(sim, "a"), "lost", 4);
        synced(sim, f, NULL); /* succeeds, and proves nothing */
        struct hf_file *d = opened(sim, "a", ENV_DIRECT);
        assert_int_equal(env_read(d, 0, page, 4096, &n), HF_OK);
        bool on_disk = memcmp(page, "lost", 4) == 0;
        env_close(d);
        env_close(f);
        crash(sim, HF_SIM_POWER_LOSS);
        assert_int_equal(memcmp(bytes_of(sim, "a"), "lost", 4) == 0, on_disk);
        lost += !on_disk;
        free(page);
        hf_sim_close(sim);
    }
    assert_in_range(lost, 1, SEEDS - 1);
}

static void faults_strike_the_call_they_were_asked_for(void **state) {
    (void)state;
    struct hf_sim *sim = machine(7);
    struct hf_env *env = hf_sim_env(sim);
    struct hf_file *f = opened(sim, "a", ENV_CREATE);
    hf_sim_fail_at(sim, 2, HF_ENOSPC);
    assert_int_equal(env_write(f, 0, "x", 1), HF_OK);
    assert_int_equal(env_allocate(f, 0, 100), HF_ENOSPC);
    assert_int_equal(env_allocate(f, 0, 100), HF_OK);
    hf_sim_fail_at(sim, 1, HF_ENOSPC);
    assert_int_equal(env_unlink(env, "a"), HF_EIO);
    assert_true(exists(sim, "a"));
    env_close(f);
    hf_sim_close(sim);
}

static void a_sync_can_be_chosen_to_fail(void **state) {
    (void)state;
    struct hf_sim *sim = machine(7);
    struct hf_env *env = hf_sim_env(sim);
    struct hf_file *f = opened(sim, "a", ENV_CREATE);
    hf_sim_fail_sync_at(sim, 2, NULL);
    write_all(f, "x");
    synced(sim, f, NULL);
    write_all(f, "y");
    assert_false(hf_sim_failed(sim));
    assert_int_equal(env_sync_wait(env, NULL, "."), HF_EIO);
    assert_true(hf_sim_failed(sim));
    hf_sim_fail_sync_at(sim, 1, ".log");
    synced(sim, f, NULL);
    env_close(f);
    f = opened(sim, "a-name-that-is-longer-than-what-is-kept.log", ENV_CREATE);
    assert_int_equal(env_sync_wait(env, f, NULL), HF_EIO);
    synced(sim, f, NULL);
    env_close(f);
    hf_sim_close(sim);
}

static void a_full_disk_says_so_and_deleting_helps(void **state) {
    (void)state;
    struct hf_sim *sim = machine(7);
    struct hf_env *env = hf_sim_env(sim);
    hf_sim_set_capacity(sim, 64 << 10);
    struct hf_file *f = opened(sim, "a", ENV_CREATE), *g = opened(sim, "b", ENV_CREATE);
    uint64_t bytes, size;
    assert_int_equal(env_allocate(f, 0, 60 << 10), HF_OK);
    assert_int_equal(env_space(env, &bytes), HF_OK);
    assert_int_equal(bytes, 4 << 10);
    assert_int_equal(env_allocate(g, 0, 8 << 10), HF_ENOSPC);
    assert_int_equal(env_size(g, &size), HF_OK);
    assert_int_equal(size, 0);
    assert_int_equal(env_write(g, 4096, "x", 1), HF_ENOSPC);
    assert_int_equal(env_truncate(f, 0), HF_OK);
    assert_int_equal(env_allocate(g, 0, 60 << 10), HF_OK);
    hf_sim_check(sim);
    env_close(f);
    env_close(g);
    hf_sim_close(sim);
}

static void power_loss_starts_a_new_boot_and_process_death_does_not(void **state) {
    (void)state;
    struct hf_sim *sim = machine(3);
    struct hf_env *env = hf_sim_env(sim);
    uint64_t boot = env_boot_id(env);
    int64_t pid;
    hf_sim_advance(sim, 5000000);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_OK);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_EAGAIN);
    crash(sim, HF_SIM_PROCESS_DEATH);
    assert_int_equal(env_lock(env, "LOCK", &pid), HF_OK);
    assert_int_equal(env_boot_id(env), boot);
    assert_true(env_mono_us(env) >= 5000000);
    crash(sim, HF_SIM_POWER_LOSS);
    assert_int_not_equal(env_boot_id(env), boot);
    assert_true(env_mono_us(env) < 5000000);
    hf_sim_set_wall(sim, 1234567);
    assert_int_equal(env_wall_ms(env), 1234567);
    hf_sim_close(sim);
}

/* A row of operations that meets every kind of crash; what is left must be what any order allows. */
static uint64_t random_run(uint64_t seed, struct hf_sim_hits *hits) {
    struct hf_sim *sim;
    assert_int_equal(hf_sim_open(seed, &(struct hf_sim_options){.hits = hits}, &sim), HF_OK);
    struct hf_env *env = hf_sim_env(sim);
    for (int life = 0; life < 4; life++) {
        struct hf_file *f = NULL, *g = NULL;
        hf_sim_crash_at(sim, 1 + hf_sim_random(sim) % 60, (enum hf_sim_crash)(hf_sim_random(sim) % 2));
        for (int i = 0; i < 100 && !hf_sim_dead(sim); i++) {
            char path[8], to[8], bytes[700];
            enum hf_err e = HF_OK;
            snprintf(path, sizeof path, "%c", (int)('a' + hf_sim_random(sim) % 5));
            snprintf(to, sizeof to, "%c", (int)('a' + hf_sim_random(sim) % 5));
            memset(bytes, i, sizeof bytes);
            env_point(env, "test.step");
            if (!f && !env_open(env, path, ENV_CREATE, &f)) e = env_allocate(f, 0, 20000);
            if (f && !e) e = env_write(f, hf_sim_random(sim) % 9000, bytes, hf_sim_random(sim) % 700);
            if (f && hf_sim_random(sim) % 8 == 0) e = env_truncate(f, hf_sim_random(sim) % 12000);
            if (hf_sim_random(sim) % 8 == 0) e = env_rename(env, path, to);
            if (hf_sim_random(sim) % 16 == 0) e = env_unlink(env, path);
            if (hf_sim_random(sim) % 16 == 0) e = env_mkdir(env, "folder");
            if (hf_sim_random(sim) % 16 == 0) e = env_rmdir(env, "folder");
            if (f && hf_sim_random(sim) % 4 == 0) e = env_sync_wait(env, f, NULL);
            if (hf_sim_random(sim) % 8 == 0) e = env_sync_wait(env, NULL, ".");
            if (f && hf_sim_random(sim) % 8 == 0) {
                env_close(f);
                f = NULL;
            }
            if (!g && !env_open(env, "kept", ENV_CREATE, &g)) e = env_allocate(g, 0, 8192);
            if (g && !e) e = env_write(g, 4096 + hf_sim_random(sim) % 3000, bytes, 300);
            assert_true(hf_sim_dead(sim) || e != HF_ECRASHED);
            hf_sim_check(sim);
        }
        env_close(f);
        env_close(g);
        if (!hf_sim_dead(sim)) hf_sim_crash(sim, HF_SIM_POWER_LOSS);
        hf_sim_restart(sim);
        hf_sim_check(sim);
    }
    uint64_t trace = hf_sim_trace(sim);
    hf_sim_close(sim);
    return trace;
}

static void one_seed_decides_everything_and_every_operation_is_crashed_at(void **state) {
    (void)state;
    static struct hf_sim_hits hits;
    const char *point;
    uint64_t before = 0;
    for (uint64_t seed = 1; seed <= SEEDS * 3; seed++) {
        uint64_t trace = random_run(seed, &hits);
        assert_int_equal(random_run(seed, NULL), trace);
        assert_int_not_equal(trace, before);
        before = trace;
    }
    if (hf_sim_hits_empty(&hits, &point)) {
        hf_sim_hits_print(&hits, stderr);
        fail_msg("no crash at %s", point);
    }
}

static void a_point_can_be_crashed_at_by_name(void **state) {
    (void)state;
    static struct hf_sim_hits hits;
    struct hf_sim *sim;
    assert_int_equal(hf_sim_open(1, &(struct hf_sim_options){.hits = &hits}, &sim), HF_OK);
    hf_sim_crash_at_point(sim, "there", 2, HF_SIM_POWER_LOSS);
    static const char *const way[] = {"here", "there", "here"};
    for (size_t i = 0; i < 3; i++) env_point(hf_sim_env(sim), way[i]);
    assert_false(hf_sim_dead(sim));
    env_point(hf_sim_env(sim), "there");
    assert_true(hf_sim_dead(sim));
    assert_int_equal(hits.count, 2);
    assert_int_equal(hits.cells[1].crashed[HF_SIM_POWER_LOSS], 1);
    assert_int_equal(hits.cells[1].passed, 2);
    assert_int_equal(hf_sim_hits_empty(&hits, NULL), 3);
    hf_sim_close(sim);
}

static void damage_is_seen_by_every_way_to_read(void **state) {
    (void)state;
    struct hf_sim *sim = machine(1);
    struct hf_file *f = opened(sim, "a", ENV_CREATE);
    write_all(f, "abc");
    synced(sim, f, NULL);
    synced(sim, NULL, ".");
    env_close(f);
    assert_int_equal(hf_sim_damage(sim, "a", 1, 1), HF_OK);
    assert_int_equal(hf_sim_damage(sim, "a", 3, 1), HF_ERANGE);
    assert_int_equal(hf_sim_damage(sim, "b", 0, 1), HF_ENOTFOUND);
    assert_string_equal(bytes_of(sim, "a"), "acc");
    crash(sim, HF_SIM_POWER_LOSS);
    assert_string_equal(bytes_of(sim, "a"), "acc");
    hf_sim_close(sim);
}

static void one_mutation_is_alive_at_a_time(void **state) {
    (void)state;
    hf_sim_set_mutation(3);
    assert_true(hf_mutate(3));
    assert_false(hf_mutate(2));
    hf_sim_set_mutation(0);
    assert_false(hf_mutate(3));
    assert_false(hf_mutate(0));
}

int main(void) {
    const struct contract_subject sim = {"sim", sim_machine_open, sim_machine_close};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_loss_keeps_what_was_synced),
        cmocka_unit_test(power_loss_may_keep_any_state_since_the_last_sync),
        cmocka_unit_test(a_power_loss_tears_at_sectors_only),
        cmocka_unit_test(the_size_may_be_new_and_the_bytes_lost),
        cmocka_unit_test(process_death_keeps_all_but_a_prefix_of_the_last_store),
        cmocka_unit_test(a_sync_covers_what_was_written_before_it_began),
        cmocka_unit_test(names_are_durable_by_their_folder_only),
        cmocka_unit_test(synced_names_stay),
        cmocka_unit_test(a_file_in_a_lost_folder_is_gone),
        cmocka_unit_test(a_failed_sync_leaves_bytes_readable_and_lost),
        cmocka_unit_test(faults_strike_the_call_they_were_asked_for),
        cmocka_unit_test(a_sync_can_be_chosen_to_fail),
        cmocka_unit_test(a_full_disk_says_so_and_deleting_helps),
        cmocka_unit_test(power_loss_starts_a_new_boot_and_process_death_does_not),
        cmocka_unit_test(one_seed_decides_everything_and_every_operation_is_crashed_at),
        cmocka_unit_test(a_point_can_be_crashed_at_by_name),
        cmocka_unit_test(damage_is_seen_by_every_way_to_read),
        cmocka_unit_test(one_mutation_is_alive_at_a_time),
    };
    int failed = contract_run(&sim);
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
