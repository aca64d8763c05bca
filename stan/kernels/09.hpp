#define GPTBAYES_STAGE 9
#include "gpt_log_likelihood.hpp"
