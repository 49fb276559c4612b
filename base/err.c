#include "err.h"

#include <errno.h>

static const struct {
    const char *name;
    enum hf_err_class class_;
    const char *text;
} errors[] = {
#define ROW(name, number, class_, text) [number] = {#name, HF_CLASS_##class_, text},
    HF_ERR_TABLE(ROW)
#undef ROW
};

static bool known(enum hf_err e) {
    return (size_t)e < sizeof errors / sizeof errors[0] && errors[e].name;
}

const char *hf_err_text(enum hf_err e) {
    return known(e) ? errors[e].text : "unknown error";
}

const char *hf_err_name(enum hf_err e) {
    return known(e) ? errors[e].name : "HF_E?";
}

enum hf_err_class hf_err_class_of(enum hf_err e) {
    return known(e) ? errors[e].class_ : HF_CLASS_FINAL;
}

enum hf_err hf_err_from_errno(int errno_value) {
    switch (errno_value) {
    case 0: return HF_OK;
    case ENOENT: return HF_ENOTFOUND;
    case EEXIST: return HF_EEXIST;
    case ENOSPC:
    case EDQUOT: return HF_ENOSPC;
    case ENOMEM: return HF_ENOMEM;
    case EAGAIN: return HF_EAGAIN;
    case ETIMEDOUT: return HF_ETIMEDOUT;
    case EINVAL: return HF_EINVAL;
    default: return HF_EIO;
    }
}
