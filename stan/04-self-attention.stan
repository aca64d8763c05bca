// Components of the model, in the order of the forward pass:
// - embedding of each token
// - embedding of each position
// - causal self-attention, one head
// - linear head: the logits of the next token

functions {
  #include embedding.stanfunctions
  #include position.stanfunctions
  #include attention.stanfunctions
  #include linear.stanfunctions
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * The forward pass.
   *
   * @param x tokens, B sequences of length T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x,
                    array[] vector token_embedding,
                    array[] vector position_embedding,
                    matrix key,
                    matrix query,
                    matrix value,
                    matrix lm_head_multiplier,
                    vector lm_head_offset) {
    int T = size(x[1]);
    int C = size(token_embedding[1]);
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    stream += embed_positions(x, position_embedding);  // (B T, C)
    stream = attention(stream, T, key, query, value);
    return linear(stream, lm_head_multiplier, lm_head_offset);  // (B T, V)
  }
}
data {
  int<lower=1> vocab_size;  // V, number of distinct characters
  int<lower=1> block_size;  // T, length of a sequence
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // C, dimension of the embeddings
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // targets

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> position_embedding_scale;  // prior sd
  real<lower=0> attention_scale;  // prior sd of key, query and value
  real<lower=0> lm_head_scale;  // prior sd
  real<lower=0> offset_scale;  // prior sd of all offsets
  real<lower=0> likelihood_weight;  // 1 for the posterior, 0 for the prior

  int<lower=1> prompt_size;  // length of the prompt
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;  // tokens
  int<lower=0> n_new_tokens;  // number of tokens to generate
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // one per character
  array[block_size] vector[n_embed] position_embedding;  // one per position
  matrix[n_embed, n_embed] key;  // attention keys
  matrix[n_embed, n_embed] query;  // attention queries
  matrix[n_embed, n_embed] value;  // attention values
  matrix[vocab_size, n_embed] lm_head_multiplier;  // linear head
  vector[vocab_size] lm_head_offset;  // linear head
}
transformed parameters {
  matrix[batch_size, block_size] log_lik;  // nats, one per target
  profile("likelihood") {
    log_lik = token_log_likelihood(y, gpt_logits(
      x,
      token_embedding,
      position_embedding,
      key, query, value,
      lm_head_multiplier, lm_head_offset));
  }
}
model {
  for (v in 1:vocab_size) {
    token_embedding[v] ~ normal(0, token_embedding_scale);
  }
  for (t in 1:block_size) {
    position_embedding[t] ~ normal(0, position_embedding_scale);
  }
  to_vector(key) ~ normal(0, attention_scale);
  to_vector(query) ~ normal(0, attention_scale);
  to_vector(value) ~ normal(0, attention_scale);
  to_vector(lm_head_multiplier) ~ normal(0, lm_head_scale);
  lm_head_offset ~ normal(0, offset_scale);

  target += likelihood_weight * sum(to_vector(log_lik'));
}
generated quantities {
  array[n_new_tokens] int new_tokens;  // the prompt's continuation
  {
    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size),
        token_embedding,
        position_embedding,
        key, query, value,
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
