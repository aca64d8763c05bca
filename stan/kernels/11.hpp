#define GPTBAYES_STAGE 11
#include "gpt_log_likelihood.hpp"
