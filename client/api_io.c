/* HTTP with JSON, for what Kafka's protocol has no words for: what came of a cancel, how a transaction was
 * decided.
 *
 * An edge: one request, one answer, both bounded; nothing is decided here. */
#include "client.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { API_ANSWER_MAX = 16 << 20, API_URL_MAX = 8192 };

struct answer {
    char *p;
    size_t n;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void init_curl(void) {
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t receive(char *p, size_t size, size_t count, void *arg) {
    struct answer *a = arg;
    size_t n = size * count;
    if (n > API_ANSWER_MAX - a->n) return 0;
    char *grown = realloc(a->p, a->n + n + 1);
    if (!grown) return 0;
    memcpy(grown + a->n, p, n);
    a->p = grown;
    a->n += n;
    return n;
}

bool client_path_segment(const char *s, char *out, size_t size) {
    static const char hex[] = "0123456789ABCDEF";
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    size_t n = 0;
    for (; *s; s++) {
        if (n + 4 > size) return false;
        if (strchr(plain, *s)) {
            out[n++] = *s;
            continue;
        }
        out[n++] = '%';
        out[n++] = hex[(unsigned char)*s >> 4];
        out[n++] = hex[(unsigned char)*s & 15];
    }
    if (n >= size) return false;
    out[n] = 0;
    return true;
}

static enum hf_err perform(CURL *h, const char *url, int *status) {
    CURLcode code = curl_easy_perform(h);
    if (code == CURLE_OPERATION_TIMEDOUT) return client_error(HF_ETIMEDOUT, "%s: no answer in time", url);
    if (code != CURLE_OK)
        return client_error(HF_ECONNECT, "%s: %s; is --api the server's HTTP address?", url,
                            curl_easy_strerror(code));
    long http = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &http);
    *status = (int)http;
    return HF_OK;
}

enum hf_err client_api(const char *api, const char *method, const char *path, const json_t *body,
                       int64_t timeout_ms, int *status, json_t **out) {
    if (!api)
        return client_error(HF_EUNSUPPORTED, "%s %s needs the server's HTTP address (option api)", method,
                            path);
    pthread_once(&once, init_curl);
    char url[API_URL_MAX];
    if ((size_t)snprintf(url, sizeof url, "http://%s%s", api, path) >= sizeof url)
        return client_error(HF_ELIMIT, "%s %s: the path is too long", method, path);
    CURL *h = curl_easy_init();
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct curl_slist *headers = body ? curl_slist_append(NULL, "Content-Type: application/json") : NULL;
    struct answer a = {0};
    enum hf_err e = HF_ENOMEM;
    if (!h || (body && (!text || !headers))) {
        e = client_error(e, "%s %s: %s", method, url, hf_err_text(e));
        goto out;
    }
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L); /* "." and ".." are ids like others */
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &a);
    if (body) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, text);
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
    }
    e = perform(h, url, status);
    if (!e) *out = a.n ? json_loadb(a.p, a.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
out:
    free(a.p);
    free(text);
    curl_slist_free_all(headers);
    if (h) curl_easy_cleanup(h);
    return e;
}
