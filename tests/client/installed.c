/* A program as a user's, against the installed library: what needs no server. */
#include <holdfast/holdfast.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    hf_client *c = NULL;
    hf_client_options o = {HF_CLIENT_DEFAULTS, .timeout_ms = 300};
    hf_worker *w = NULL;
    if (hf_connect("127.0.0.1:1", &o, &c) != HF_ECONNECT || c) return 1;
    if (!strstr(hf_errmsg(), "127.0.0.1:1")) return 2;
    if (hf_worker_open(&(hf_worker_options){HF_WORKER_DEFAULTS, .server = "127.0.0.1:1"}, &w) != HF_EINVAL ||
        w)
        return 3;
    if (!strstr(hf_errmsg(), "group")) return 4;
    printf("%s: %s\n", hf_version(), hf_errmsg());
    hf_close(NULL);
    hf_worker_close(NULL);
    return 0;
}
