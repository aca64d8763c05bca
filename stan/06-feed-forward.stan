// 06: feed-forward. After it has looked around, every position thinks by
// itself: a linear map, of which only the positive part passes.

functions {
  #include embedding.stanfunctions
  #include position.stanfunctions
  #include attention.stanfunctions
  #include multi_head_attention.stanfunctions
  #include linear.stanfunctions
  #include feed_forward.stanfunctions  // 06
  #include token_log_likelihood.stanfunctions
  #include generate.stanfunctions

  /**
   * @param x tokens, B sequences of T
   * @return logits of the next token, one row per token, (B T, V)
   */
  matrix gpt_logits(array[,] int x, array[] vector token_embedding,
                    array[] vector position_embedding,
                    array[] matrix key, array[] matrix query,
                    array[] matrix value,
                    matrix feed_forward_multiplier,  // 06
                    vector feed_forward_offset,  // 06
                    matrix lm_head_multiplier, vector lm_head_offset) {
    int T = size(x[1]);
    int C = size(token_embedding[1]);
    matrix[num_elements(x), C] stream = embed_tokens(x, token_embedding);
    stream += embed_positions(x, position_embedding);  // (B T, C)
    stream = multi_head_attention(stream, T, key, query, value);
    stream = feed_forward(stream, feed_forward_multiplier,  // 06
                          feed_forward_offset);  // 06
    return linear(stream, lm_head_multiplier, lm_head_offset);  // (B T, V)
  }

  #include log_likelihood/06.stanfunctions
}
data {
  int<lower=1> vocab_size;  // V, number of characters
  int<lower=1> block_size;  // T, length of the context
  int<lower=1> batch_size;  // B, number of sequences
  int<lower=1> n_embed;  // C, width of the model
  int<lower=1> n_head;  // H, number of heads
  array[batch_size, block_size] int<lower=1, upper=vocab_size> x;  // tokens
  array[batch_size, block_size] int<lower=1, upper=vocab_size> y;  // next ones

  real<lower=0> token_embedding_scale;  // prior sd
  real<lower=0> position_embedding_scale;  // prior sd
  real<lower=0> attention_scale;  // prior sd
  real<lower=0> feed_forward_scale;  // 06: prior sd
  real<lower=0> lm_head_scale;  // prior sd
  real<lower=0> offset_scale;  // prior sd
  real<lower=0> likelihood_weight;  // 1: posterior, 0: prior

  int<lower=1> prompt_size;
  array[prompt_size] int<lower=1, upper=vocab_size> prompt;
  int<lower=0> n_new_tokens;  // how far to go on from the prompt
}
transformed data {
  int head_size = n_embed %/% n_head;  // h
}
parameters {
  array[vocab_size] vector[n_embed] token_embedding;  // of each character
  array[block_size] vector[n_embed] position_embedding;
  array[n_head] matrix[n_embed, head_size] key;
  array[n_head] matrix[n_embed, head_size] query;
  array[n_head] matrix[n_embed, head_size] value;
  matrix[n_embed, n_embed] feed_forward_multiplier;  // 06
  vector[n_embed] feed_forward_offset;  // 06
  matrix[vocab_size, n_embed] lm_head_multiplier;
  vector[vocab_size] lm_head_offset;
}
model {
  for (v in 1:vocab_size) {
    token_embedding[v] ~ normal(0, token_embedding_scale);
  }
  for (t in 1:block_size) {
    position_embedding[t] ~ normal(0, position_embedding_scale);
  }
  for (head in 1:n_head) {
    to_vector(key[head]) ~ normal(0, attention_scale);
    to_vector(query[head]) ~ normal(0, attention_scale);
    to_vector(value[head]) ~ normal(0, attention_scale);
  }
  to_vector(feed_forward_multiplier) ~ normal(0, feed_forward_scale);  // 06
  feed_forward_offset ~ normal(0, offset_scale);  // 06
  to_vector(lm_head_multiplier) ~ normal(0, lm_head_scale);
  lm_head_offset ~ normal(0, offset_scale);

  profile("likelihood") {
    target += likelihood_weight * sum(
      gpt_log_likelihood(y, x, token_embedding, position_embedding,
                         key, query, value,
                         feed_forward_multiplier, feed_forward_offset,  // 06
                         lm_head_multiplier, lm_head_offset));
  }
}
generated quantities {
  matrix[batch_size, block_size] log_lik;  // nats
  array[n_new_tokens] int new_tokens;
  {
    log_lik = to_matrix(
      gpt_log_likelihood(y, x, token_embedding, position_embedding,
                         key, query, value,
                         feed_forward_multiplier, feed_forward_offset,  // 06
                         lm_head_multiplier, lm_head_offset),
      batch_size, block_size, 0);

    array[prompt_size + n_new_tokens] int text
      = append_array(prompt, rep_array(0, n_new_tokens));
    for (n in prompt_size:(prompt_size + n_new_tokens - 1)) {
      text[n + 1] = next_token_rng(gpt_logits(
        context(text, n, block_size), token_embedding, position_embedding,
        key, query, value,
        feed_forward_multiplier, feed_forward_offset,  // 06
        lm_head_multiplier, lm_head_offset));
    }
    new_tokens = tail(text, n_new_tokens);
  }
}
