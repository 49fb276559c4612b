/* The options of a command from four sources, by one table.
 *
 * Values travel as text until the last moment: each source hands (option, text, where it stands) to `set`,
 * which is the only place that parses and checks a value, so a bad number reads the same wherever it came
 * from, and the error can always say where. The sources run in the order in which they yield: fallbacks,
 * file, environment, flags. The file's name is itself looked up first among the flags.
 *
 * The config file is read by inih. It cuts lines that are too long for its buffer; the reader here refuses
 * them instead, so that no value is ever shortened. */
#include "config.h"

#include "base/duration.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

enum { CONFIG_ARENA_MAX = 1 << 20, VARIABLE_MAX = 128, WHERE_MAX = 200 };

struct loading {
    struct hf_config *c;
    const struct hf_options *options;
    void *target;
    const char *file;
    FILE *stream;
    int line;       /* of the file, that is being read */
    bool line_long; /* …and does not fit */
    enum hf_err err;
};

static enum hf_err refuse(struct loading *l, const char *fmt, ...) HF_PRINTF(2, 3);
static enum hf_err refuse(struct loading *l, const char *fmt, ...) {
    if (l->err) return l->err; /* the first one counts */
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(l->c->error, sizeof(l->c->error), fmt, ap);
    va_end(ap);
    return l->err = HF_EINVAL;
}

/* ---- names ---- */

static char letter(char c) {
    return c == '-' || c == '_' ? '.' : (char)tolower((unsigned char)c);
}

static bool same_name(const char *a, const char *b, size_t b_n) {
    size_t i = 0;
    for (; a[i] && i < b_n; i++)
        if (letter(a[i]) != letter(b[i])) return false;
    return !a[i] && i == b_n;
}

static const struct hf_option *option_named(const struct hf_options *options, const char *name, size_t n) {
    for (size_t i = 0; i < options->count; i++)
        if (same_name(options->rows[i].name, name, n)) return &options->rows[i];
    return NULL;
}

/* "num.partitions" → "HOLDFAST_NUM_PARTITIONS" */
static void variable_name(const char *option, char out[VARIABLE_MAX]) {
    int n = snprintf(out, VARIABLE_MAX, "HOLDFAST_");
    for (; *option && n < VARIABLE_MAX - 1; option++)
        out[n++] = isalnum((unsigned char)*option) ? (char)toupper((unsigned char)*option) : '_';
    out[n] = 0;
}

/* ---- values ---- */

static enum hf_err parse_bytes(hf_str text, int64_t *out) {
    static const struct {
        const char *unit;
        int64_t times;
    } units[] = {{"KiB", 1024}, {"MiB", 1024 * 1024}, {"GiB", 1024 * 1024 * 1024}};
    int64_t times = 1;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (text.n > 3 && memcmp(text.p + text.n - 3, units[i].unit, 3) == 0) {
            times = units[i].times;
            text.n -= 3;
            break;
        }
    }
    int64_t n;
    enum hf_err e = hf_str_int(text, &n);
    if (e) return e;
    return __builtin_mul_overflow(n, times, out) ? HF_ERANGE : HF_OK;
}

static enum hf_err set_number(struct loading *l, const struct hf_option *o, const char *text,
                              const char *where) {
    static const char *const forms[] = {
        [HF_OPTION_INT] = "a whole number",
        [HF_OPTION_BYTES] = "a number of bytes such as 4096, 64KiB, 256MiB or 1GiB",
        [HF_OPTION_MS] = "a duration such as 250ms, 30s, 15m, 2h or 7d",
    };
    int64_t v = 0;
    hf_str s = hf_str_of(text);
    enum hf_err e = o->type == HF_OPTION_INT     ? hf_str_int(s, &v)
                    : o->type == HF_OPTION_BYTES ? parse_bytes(s, &v)
                                                 : hf_duration_parse(s, &v);
    if (e) return refuse(l, "%s: \"%s\" is not %s", where, text, forms[o->type]);
    int64_t max = o->min == 0 && o->max == 0 ? INT64_MAX : o->max;
    if (v < o->min || v > max)
        return refuse(l, "%s: %s is not between %" PRId64 " and %" PRId64, where, text, o->min, max);
    memcpy((uint8_t *)l->target + o->at, &v, sizeof(v));
    return HF_OK;
}

static enum hf_err set_switch(struct loading *l, const struct hf_option *o, const char *text,
                              const char *where) {
    bool v = strcmp(text, "true") == 0;
    if (!v && strcmp(text, "false") != 0)
        return refuse(l, "%s: \"%s\" is neither true nor false", where, text);
    memcpy((uint8_t *)l->target + o->at, &v, sizeof(v));
    return HF_OK;
}

static enum hf_err set_text(struct loading *l, const struct hf_option *o, const char *text) {
    hf_str copy = hf_arena_printf(&l->c->arena, "%s", text);
    if (!copy.p) return l->err = HF_ENOMEM;
    memcpy((uint8_t *)l->target + o->at, &copy.p, sizeof(copy.p));
    return HF_OK;
}

static enum hf_err set(struct loading *l, const struct hf_option *o, const char *text, const char *where) {
    switch (o->type) {
    case HF_OPTION_TEXT: return set_text(l, o, text);
    case HF_OPTION_SWITCH: return set_switch(l, o, text, where);
    default: return set_number(l, o, text, where);
    }
}

/* ---- the four sources ---- */

static enum hf_err from_fallbacks(struct loading *l) {
    for (size_t i = 0; i < l->options->count && !l->err; i++) {
        const struct hf_option *o = &l->options->rows[i];
        const char *none = NULL;
        if (o->fallback)
            (void)set(l, o, o->fallback, "built in");
        else if (o->type == HF_OPTION_TEXT)
            memcpy((uint8_t *)l->target + o->at, &none, sizeof(none));
        else
            (void)set(l, o, "false", "built in");
    }
    return l->err;
}

static char *read_line(char *line, int size, void *arg) {
    struct loading *l = arg;
    if (!fgets(line, size, l->stream)) return NULL;
    l->line++;
    size_t n = strlen(line);
    if (n == (size_t)size - 1 && line[n - 1] != '\n') l->line_long = true;
    return l->line_long ? NULL : line;
}

static int on_key(void *arg, const char *section, const char *name, const char *value) {
    struct loading *l = arg;
    if (*section && strcmp(section, l->options->command) != 0) return 1;
    char where[WHERE_MAX];
    const struct hf_option *o = option_named(l->options, name, strlen(name));
    if (!o) {
        (void)refuse(l, "%s:%d: unknown key \"%s\"", l->file, l->line, name);
        return 0;
    }
    (void)snprintf(where, sizeof(where), "%s:%d: %s", l->file, l->line, o->name);
    return set(l, o, value, where) == HF_OK;
}

static enum hf_err from_file(struct loading *l) {
    if (!l->file) return HF_OK;
    l->stream = fopen(l->file, "re");
    if (!l->stream) return refuse(l, "%s: %s", l->file, strerror(errno));
    int bad_line = ini_parse_stream(read_line, l, on_key, l);
    bool broken = ferror(l->stream) != 0;
    fclose(l->stream);
    if (l->line_long) return refuse(l, "%s:%d: the line is too long", l->file, l->line);
    if (broken) return refuse(l, "%s: cannot be read", l->file);
    if (bad_line && !l->err)
        return refuse(l, "%s:%d: neither \"key = value\" nor a [section]", l->file, bad_line);
    return l->err;
}

static enum hf_err from_environment(struct loading *l) {
    for (size_t i = 0; i < l->options->count && !l->err; i++) {
        char name[VARIABLE_MAX];
        variable_name(l->options->rows[i].name, name);
        const char *text = getenv(name);
        if (text) (void)set(l, &l->options->rows[i], text, name);
    }
    return l->err;
}

static enum hf_err leave(struct loading *l, const char *argument) {
    if (l->c->rest_count == HF_CONFIG_REST) return refuse(l, "too many arguments");
    l->c->rest[l->c->rest_count++] = argument;
    return HF_OK;
}

static bool *plain_flag(struct hf_config *c, const char *name) {
    return strcmp(name, "check-config") == 0   ? &c->check
           : strcmp(name, "print-config") == 0 ? &c->print
           : strcmp(name, "help") == 0         ? &c->help
                                               : NULL;
}

/* One flag; *i moves past its value. With only_config, only --config is heeded, which has to be known before
 * the others are set. */
static enum hf_err flag(struct loading *l, int argc, char *const *argv, int *i, bool only_config) {
    const char *name = argv[*i] + 2;
    const char *equals = strchr(name, '=');
    size_t n = equals ? (size_t)(equals - name) : strlen(name);
    bool *plain = plain_flag(l->c, name);
    if (plain) {
        *plain = true;
        return HF_OK;
    }
    bool is_config = n == 6 && memcmp(name, "config", 6) == 0;
    const struct hf_option *o = is_config ? NULL : option_named(l->options, name, n);
    if (!o && !is_config) return refuse(l, "unknown flag --%.*s; --help lists them", (int)n, name);
    const char *text = equals ? equals + 1 : NULL;
    if (!text && o && o->type == HF_OPTION_SWITCH) text = "true";
    if (!text && *i + 1 < argc) text = argv[++*i];
    if (!text) return refuse(l, "--%s needs a value", name);
    if (is_config) l->file = text;
    if (is_config || only_config) return HF_OK;
    char where[WHERE_MAX];
    (void)snprintf(where, sizeof(where), "--%s", o->name);
    return set(l, o, text, where);
}

static enum hf_err from_flags(struct loading *l, int argc, char *const *argv, bool only_config) {
    l->c->rest_count = 0;
    for (int i = 0; i < argc && !l->err; i++) {
        if (!l->c->dashes && strcmp(argv[i], "--") == 0) {
            l->c->dashes = true;
            l->c->dashes_at = l->c->rest_count;
        } else if (!l->c->dashes && strncmp(argv[i], "--", 2) == 0) {
            (void)flag(l, argc, argv, &i, only_config);
        } else {
            (void)leave(l, argv[i]);
        }
    }
    if (only_config) l->c->dashes = false;
    return l->err;
}

enum hf_err hf_config_load(struct hf_config *c, const struct hf_options *options, int argc, char *const *argv,
                           void *target) {
    *c = (struct hf_config){.error = ""};
    hf_arena_init(&c->arena, CONFIG_ARENA_MAX);
    struct loading l = {.c = c, .options = options, .target = target, .file = getenv("HOLDFAST_CONFIG")};
    enum hf_err e = from_fallbacks(&l);
    if (!e) e = from_flags(&l, argc, argv, true);
    if (!e) e = from_file(&l);
    if (!e) e = from_environment(&l);
    if (!e) e = from_flags(&l, argc, argv, false);
    if (e == HF_ENOMEM) (void)snprintf(c->error, sizeof(c->error), "out of memory");
    return e;
}

void hf_config_fini(struct hf_config *c) {
    hf_arena_fini(&c->arena);
}

/* ---- output ---- */

void hf_config_print(const struct hf_options *options, const void *target, FILE *to) {
    (void)fprintf(to, "[%s]\n", options->command);
    for (size_t i = 0; i < options->count; i++) {
        const struct hf_option *o = &options->rows[i];
        const void *at = (const uint8_t *)target + o->at;
        if (o->type == HF_OPTION_TEXT) {
            const char *text = *(const char *const *)at;
            if (text) (void)fprintf(to, "%s = %s\n", o->name, text);
        } else if (o->type == HF_OPTION_SWITCH) {
            (void)fprintf(to, "%s = %s\n", o->name, *(const bool *)at ? "true" : "false");
        } else {
            (void)fprintf(to, "%s = %" PRId64 "\n", o->name, *(const int64_t *)at);
        }
    }
}

void hf_config_usage(const struct hf_options *options, FILE *to) {
    for (size_t i = 0; i < options->count; i++) {
        const struct hf_option *o = &options->rows[i];
        (void)fprintf(to, "  --%s%s%s\n        %s", o->name, o->value ? " " : "", o->value ? o->value : "",
                      o->help);
        if (o->fallback && *o->fallback) (void)fprintf(to, " (default %s)", o->fallback);
        (void)fprintf(to, "\n");
    }
    (void)fprintf(to, "  --config FILE\n        read settings from an INI file\n"
                      "  --check-config, --print-config\n        look at the settings and stop\n");
}
