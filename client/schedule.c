/* Schedules by name: cancel, move, replace, each with a definite answer where the server's HTTP side is
 * known. */
#include "compose.h"

#include <jansson.h>
#include <stdio.h>

static const struct {
    hf_outcome outcome;
    const char *text;
} outcomes[] = {
    {HF_OUTCOME_ACCEPTED, "accepted"},   {HF_OUTCOME_CANCELLED, "cancelled"},
    {HF_OUTCOME_REPLACED, "replaced"},   {HF_OUTCOME_MOVED, "moved"},
    {HF_OUTCOME_SCHEDULED, "scheduled"}, {HF_OUTCOME_DELIVERED, "already delivered"},
    {HF_OUTCOME_UNKNOWN, "unknown"},
};

const char *hf_outcome_text(hf_outcome o) {
    for (size_t i = 0; i < sizeof outcomes / sizeof *outcomes; i++)
        if (outcomes[i].outcome == o) return outcomes[i].text;
    return "no such outcome";
}
