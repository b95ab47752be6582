// SPDX-License-Identifier: Apache-2.0
// spm_shim.cc - the few calls into the sentencepiece library; no exception and no C++ type leaves this file.
#include "engine/token/spm.h"

#include <exception>
#include <memory>
#include <new>
#include <string>

#include <sentencepiece_processor.h>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
};

static int refused(struct err *e, const std::string &what)
{
    return err_set(e, ERR_FORMAT,
                   "the sentencepiece library refuses the vocabulary (%s); download the model again",
                   what.c_str());
}

int spm_load(const void *proto, size_t n, struct spm **out, struct err *e)
{
    *out = nullptr;
    try {
        auto s = std::make_unique<struct spm>();
        const auto status = s->processor.LoadFromSerializedProto({static_cast<const char *>(proto), n});
        if (!status.ok())
            return refused(e, status.ToString());
        *out = s.release();
        return 0;
    } catch (const std::bad_alloc &) {
        return err_memory(e, "the vocabulary");
    } catch (const std::exception &x) {
        return refused(e, x.what());
    }
}

void spm_free(struct spm *s)
{
    delete s;
}

int spm_encode(const struct spm *s, const char *text, size_t n,
               int (*token)(void *arg, uint32_t id, size_t end), void *arg, struct err *e)
{
    try {
        // Encode, not EncodeAsImmutableProto, whose macro hides the status.
        sentencepiece::ImmutableSentencePieceText encoded;
        const auto status = s->processor.Encode({text, n}, encoded.mutable_proto());
        if (!status.ok())
            return refused(e, status.ToString());
        const size_t count = encoded.pieces_size();
        for (size_t i = 0; i < count; i++) {
            const auto piece = encoded.pieces(static_cast<int>(i));
            const size_t end = piece.end();
            const int rc = token(arg, piece.id(), end < n ? end : n);
            if (rc)
                return rc;
        }
        return 0;
    } catch (const std::bad_alloc &) {
        return err_memory(e, "the tokens of a text");
    } catch (const std::exception &x) {
        return refused(e, x.what());
    }
}
