/* The text of the versioned upsert; the stores run it (version.h tells why and shows the statement).
 *
 * The alias t is needed because inside ON CONFLICT the bare column means the old row in both databases, but
 * "schema"."table"."column" is not understood by SQLite. */
#include "version.h"

#include "store.h"

enum { NAME_MAX_BYTES = 63 };

static enum hf_err put_name(struct hf_buf *out, hf_str name) {
    if (name.n == 0 || name.n > NAME_MAX_BYTES) return HF_EINVAL;
    hf_buf_u8(out, '"');
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] == '"') hf_buf_u8(out, '"');
        hf_buf_u8(out, (uint8_t)name.p[i]);
    }
    hf_buf_u8(out, '"');
    return HF_OK;
}

/* "schema.table" is two names. */
static enum hf_err put_table(struct hf_buf *out, hf_str table) {
    const char *dot = table.n ? memchr(table.p, '.', table.n) : NULL;
    if (!dot) return put_name(out, table);
    size_t schema = (size_t)(dot - table.p);
    enum hf_err e = put_name(out, hf_str_make(table.p, schema));
    if (e) return e;
    hf_buf_u8(out, '.');
    return put_name(out, hf_str_make(dot + 1, table.n - schema - 1));
}

static enum hf_err put_columns(const struct dedup_upsert *u, struct hf_buf *out) {
    hf_buf_printf(out, " AS t (");
    enum hf_err e = put_name(out, hf_str_of(u->id_column));
    for (size_t i = 0; !e && i < u->count; i++) {
        hf_buf_printf(out, ", ");
        e = put_name(out, hf_str_of(u->columns[i].name));
    }
    if (e) return e;
    hf_buf_printf(out, ", ");
    e = put_name(out, hf_str_of(u->version_column));
    hf_buf_printf(out, ") VALUES ($1");
    for (size_t i = 2; i <= u->count + 2; i++) hf_buf_printf(out, ", $%zu", i);
    hf_buf_printf(out, ")");
    return e;
}

/* Every name has passed put_columns, so putting it again cannot be invalid. */
static void put_again(struct hf_buf *out, const char *name) {
    enum hf_err e = put_name(out, hf_str_of(name));
    (void)e;
}

static void put_update(const struct dedup_upsert *u, struct hf_buf *out) {
    hf_buf_printf(out, " ON CONFLICT (");
    put_again(out, u->id_column);
    hf_buf_printf(out, ") DO UPDATE SET ");
    for (size_t i = 0; i <= u->count; i++) {
        const char *name = i < u->count ? u->columns[i].name : u->version_column;
        if (i) hf_buf_printf(out, ", ");
        put_again(out, name);
        hf_buf_printf(out, " = excluded.");
        put_again(out, name);
    }
    hf_buf_printf(out, " WHERE t.");
    put_again(out, u->version_column);
    hf_buf_printf(out, " < excluded.");
    put_again(out, u->version_column);
}

enum hf_err dedup_upsert_sql(const struct dedup_upsert *u, struct hf_buf *out) {
    if (u->count > DEDUP_COLUMNS_MAX) return HF_ELIMIT;
    hf_buf_printf(out, "INSERT INTO ");
    enum hf_err e = put_table(out, hf_str_of(u->table));
    if (!e) e = put_columns(u, out);
    if (e) return e;
    put_update(u, out);
    return hf_buf_failed(out);
}
