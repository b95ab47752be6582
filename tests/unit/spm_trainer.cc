// SPDX-License-Identifier: Apache-2.0
// spm_trainer.cc - see spm_trainer.h.
#include "tests/unit/spm_trainer.h"

#include <fstream>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace
{
class Lines : public sentencepiece::SentenceIterator
{
  public:
    Lines(const char *const *lines, size_t n) : lines_(lines, lines + n) {}
    bool done() const override { return at_ >= lines_.size(); }
    void Next() override { at_++; }
    const std::string &value() const override { return lines_[at_]; }
    sentencepiece::util::Status status() const override { return {}; }

  private:
    std::vector<std::string> lines_;
    size_t at_ = 0;
};
} // namespace

int spm_trainer_train(const char *const *lines, size_t n, const char *options, const char *path)
{
    Lines iterator(lines, n);
    std::string model;
    const std::string all = std::string(options) + " --minloglevel=2";
    const auto status = sentencepiece::SentencePieceTrainer::Train(all, &iterator, &model);
    if (!status.ok())
        return 1;
    std::ofstream file(path, std::ios::binary);
    file.write(model.data(), static_cast<std::streamsize>(model.size()));
    return !file.good();
}

long spm_trainer_encode(const char *path, const char *text, size_t n, uint32_t *ids, size_t cap)
{
    sentencepiece::SentencePieceProcessor processor;
    std::vector<int> found;
    if (!processor.Load(path).ok() || !processor.Encode(std::string(text, n), &found).ok())
        return -1;
    for (size_t i = 0; i < found.size() && i < cap; i++)
        ids[i] = static_cast<uint32_t>(found[i]);
    return static_cast<long>(found.size());
}
