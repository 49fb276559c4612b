/* Topics: the catalogue, their folders, what they are told.
 *
 *     topics.c  catalogue                 folders.c    folders, the trash
 *     create.c  they come, grow and go    configure.c  what topics are told */
#ifndef STORE_LOG_TOPICS_H
#define STORE_LOG_TOPICS_H

#include "partition.h"

/* ---- topics ---- */

enum topic_phase { TOPIC_CREATING, TOPIC_LIVE, TOPIC_DELETING, TOPIC_GONE };

/* The settings in force: the topic's own, or the server's. */
struct topic_config {
    bool internal, append_time;
    size_t message_max;
    uint64_t segment_bytes;
    struct log_settings settings; /* all values; `own`: the topic's */
};

struct topic {
    char name[256];
    char folded[256]; /* '.' as '_': names that differ by these only are not told apart, as in Kafka */
    struct log_uuid id;
    struct topic_config config;
    struct log_settings asked; /* by the last log_topic_alter */
    int32_t partitions;
    int32_t partitions_asked; /* as the last put of its entry says */
    uint32_t holders;         /* partitions whose object points here */
    bool growing;
    struct log_partition **partition;
    enum topic_phase phase;
    bool taken_back;        /* rescue: its entry of the catalogue is to be put again */
    uint64_t next_sequence; /* internal topics: order of acceptance */
    int64_t last_time_ms;   /* internal topics: append time never goes back over all partitions */
    void (*watch)(void *arg);
    void *watch_arg;
    UT_hash_handle hh, hh_id, hh_folded;
};

struct topic_watch {
    struct topic_watch *prev, *next;
    char name[256];
    void (*fn)(void *arg);
    void *arg;
};

struct trash {
    struct trash *next;
    char path[LOG_PATH];
};

/* topics.c */
bool topic_shown(const struct log *l, const struct topic *t); /* t may be NULL */
struct topic *topic_find(struct log *l, hf_str name);
struct topic *topic_find_id(struct log *l, const struct log_uuid *id);
struct topic *topic_find_alike(struct log *l, hf_str name);
struct log_partition *topic_partition(struct log *l, hf_str name, int32_t number);
HF_CHECK enum hf_err topic_new(struct log *l, hf_str name, const struct log_topic_config *config,
                               const struct log_uuid *id, struct topic **out); /* in the catalogue */
void topic_unindex(struct log *l, struct topic *t);                            /* out of it */
void topic_drop(struct topic *t); /* freed when nobody holds its partitions any more */
HF_CHECK enum hf_err topics_init(struct log *l);
HF_CHECK enum hf_err topics_load(struct log *l); /* the catalogue from the state */
HF_CHECK enum hf_err topic_take_back(struct log *l, hf_str name, int32_t number);
void topics_free(struct log *l);

/* folders.c */
HF_CHECK enum hf_err topic_folder_create(struct log_partition *p, struct hf_file **metadata);
HF_CHECK enum hf_err topic_metadata_write(struct log_partition *p);
HF_CHECK enum hf_err topic_metadata_read(struct log *l, hf_str name, int32_t number, struct log_uuid *id);
void topic_epochs_write(struct log_partition *p);
HF_CHECK enum hf_err topic_folder_prove(struct log_partition *p);
HF_CHECK enum hf_err topic_folder_is(struct log_partition *p, bool *is); /* whose folder it is [L14] */
void base64url(const uint8_t b[16], char out[24]);
void topic_folder_path(const struct topic *t, int32_t number, char out[LOG_PATH]);
void trash_folder(struct log *l, const char *path);
void trash_step(struct log *l);
HF_CHECK enum hf_err trash_load(struct log *l);

/* create.c */
void creations_forget(struct log *l);

/* configure.c */
void topic_configure(struct log *l, struct topic *t, const struct log_settings *own);
HF_CHECK enum hf_err settings_check(const struct log_settings *s); /* HF_EINVAL */
void catalogue_key(const struct topic *t, struct hf_buf *out);
void catalogue_value(const struct topic *t, int32_t partitions, const struct log_settings *own,
                     struct hf_buf *out);
HF_CHECK enum hf_err catalogue_read(hf_str value, struct log_uuid *id, struct log_topic_config *out);
void alterations_forget(struct log *l);

#endif
