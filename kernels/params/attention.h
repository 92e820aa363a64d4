// Parameter blocks of attention.
#ifndef SUMEXP_PARAMS_ATTENTION_H
#define SUMEXP_PARAMS_ATTENTION_H

#include "common.h"

/// A matrix per batch entry and head, or, of packed sequences, the rows of all of them one behind the other.
typedef struct {
  /// First element; null if there is none.
  const void *data;
  /// Distance between batch entries; not used with packed sequences.
  uint64_t batch;
  /// Distance between heads.
  uint64_t head;
  /// Distance between rows. The elements of a row are neighbours.
  uint64_t row;
  /// Whether 16 bytes from any row on, in steps of as many, are aligned (0 or 1).
  uint32_t vectors;
  uint32_t reserved;
} AttentionMatrix;

/// A value for every query and key, of any type, by their positions in a sequence; every stride may be 0.
typedef struct {
  /// First element; null if there is none.
  const void *data;
  /// Distances between batch entries (or packed sequences), heads, queries and keys.
  uint64_t batch;
  uint64_t head;
  uint64_t query;
  uint64_t key;
  /// Pairs with a query or a key from these positions on have no value, and are hidden. They occur only in packed sequences
  /// that are longer than their mask.
  uint32_t queries;
  uint32_t keys;
} AttentionPairs;

/// Cells of a mask: what is known of so many neighbouring queries and keys together. Tiles of all kernels consist of whole cells.
enum {
  ATTENTION_CELL_QUERIES = 32,
  ATTENTION_CELL_KEYS = 16,
};

/// Which pairs the bytes of a mask show, as attention_mask_bits packs them. Rows of words have a multiple of 16 bytes; every stride
/// but those of words may be 0.
typedef struct {
  /// Rows of bits, one for every query: bit k % 32 of word k / 32 is 1 if the query sees key k. Null without bytes.
  const uint32_t *bits;
  /// Distances between batch entries (or packed sequences), heads and queries, in words.
  uint64_t bits_batch;
  uint64_t bits_head;
  uint64_t bits_query;
  /// Rows of cells, one for every ATTENTION_CELL_QUERIES queries, of pairs of words: bit c % 32 of word c / 32 * 2 is 1 if any pair
  /// of cell c is visible, of the next word if all pairs are. Pairs that are not there count as both.
  const uint32_t *cells;
  uint64_t cells_batch;
  uint64_t cells_head;
  uint64_t cells_row;
  /// Pairs with a query or a key from these positions on have no byte, and are hidden. They occur only in packed sequences
  /// that are longer than their mask.
  uint32_t queries;
  uint32_t keys;
} AttentionBits;

/// The smallest and the largest segment of ATTENTION_CELL_KEYS neighbouring positions.
typedef struct {
  int32_t smallest;
  int32_t largest;
} AttentionSpan;

/// The segment of every position in a sequence.
typedef struct {
  /// First segment; null if there is none.
  const int32_t *data;
  /// Distances between batch entries (or packed sequences) and positions.
  uint64_t batch;
  uint64_t position;
  /// What attention_mask_spans finds: one span for every ATTENTION_CELL_KEYS positions, and the distance between batch entries.
  const AttentionSpan *spans;
  uint64_t spans_batch;
  /// Positions from this one on have no segment, and are hidden.
  uint32_t positions;
  uint32_t reserved;
} AttentionSegments;

/// The keys around the diagonal that a query sees: query i sees keys i + first to i + last, both included.
/// Within -2^40 to 2^40, which stand for no limit.
typedef struct {
  int64_t first;
  int64_t last;
} AttentionBand;

/// Element types of an additive bias.
enum {
  ATTENTION_F32 = 0,
  ATTENTION_F16 = 1,
  ATTENTION_BF16 = 2,
};

/// Which keys take part. A key is visible if every part of the mask says so.
typedef struct {
  /// The diagonal starts at the first query and key of a sequence.
  AttentionBand top_left;
  /// The diagonal ends at the last query and key of a sequence.
  AttentionBand bottom_right;
  /// One per batch entry: keys from this number on are hidden. Less than 0 counts as 0. Null without a limit.
  const int32_t *key_lengths;
  /// Distance between the lengths of batch entries.
  uint64_t key_lengths_stride;
  /// Queries see keys of the same segment. Both are null or neither.
  AttentionSegments query_segments;
  AttentionSegments key_segments;
  /// What bytes show.
  AttentionBits visible;
  /// Keys in front of this one are hidden; at most the number of keys.
  uint32_t first_key;
  uint32_t reserved;
} AttentionMask;

/// attention_mask_bits.
typedef struct {
  /// The bytes of a mask.
  AttentionPairs bytes;
  /// A byte hides its key if `(byte != 0) == hide`.
  uint32_t hide;
  /// Whether 16 bytes from any key that is a multiple of 16 are neighbours and aligned (0 or 1).
  uint32_t vectors;
  /// How many there are of each to pack: 1 of what repeats. At least 1.
  uint32_t batch;
  uint32_t heads;
  uint32_t queries;
  uint32_t keys;
  /// Written.
  AttentionBits out;
} AttentionMaskBitsParams;

/// attention_mask_spans.
typedef struct {
  AttentionSegments segments;
  /// How many batch entries to look at: 1 if they repeat. At least 1.
  uint32_t batch;
  uint32_t reserved;
} AttentionMaskSpansParams;

/// Lengths and numbers of everything, at least 1 each unless said otherwise.
typedef struct {
  /// Batch entries or packed sequences.
  uint32_t batch;
  /// Heads of the queries, a multiple of those of the keys.
  uint32_t heads;
  uint32_t key_heads;
  /// Queries and keys (0 or more) of a batch entry, or of all packed sequences together; at most 2^30.
  uint32_t queries;
  uint32_t keys;
  /// Elements of a row of q and k, and of v and out.
  uint32_t head_size;
  uint32_t value_size;
  uint32_t reserved;
} AttentionSizes;

/// From products to weights. A score is `product * factor` plus bias, less slope times distance, then capped; its weight is
/// exp2((score - max) * log2_factor). Where nothing is added and nothing capped, factor is 1 and the scale is part of log2_factor.
typedef struct {
  /// Added to the scores; -inf hides.
  AttentionPairs bias;
  /// One of ATTENTION_*: the type of the bias.
  uint32_t bias_type;
  /// Whether factor is not 1, or there is a bias, a slope or a cap (0 or 1).
  uint32_t change;
  float factor;
  /// Above 0 and normal, and what f32 rounds away of it.
  float log2_factor;
  float log2_factor_low;
  /// lse = max * natural_factor + ln(sum).
  float natural_factor;
  /// Scores become cap * tanh(score / cap); 0 for no cap.
  float cap;
  /// Whether the diagonal of slopes ends at the last query and key (1), or starts at the first ones (0).
  uint32_t slopes_bottom_right;
  /// f32, one per batch entry and head: times the distance from a diagonal is subtracted from the scores; null without.
  const float *slopes;
  uint64_t slopes_batch;
  uint64_t slopes_head;
} AttentionScores;

/// What the kernels of both directions know of a call.
typedef struct {
  AttentionSizes sizes;
  AttentionMatrix q;
  AttentionMatrix k;
  AttentionMatrix v;
  /// Packed sequences: where sequence i starts, and behind the last one where it ends; null if nothing is packed. What lies
  /// outside of the data is cut off.
  const int32_t *query_offsets;
  const int32_t *key_offsets;
  AttentionMask mask;
  AttentionScores scores;
} AttentionCall;

/// The softmax of some of the keys of a query.
typedef struct {
  /// The largest score, -inf without any visible key.
  float max;
  /// The sum of the weights relative to it.
  float sum;
} AttentionState;

/// Keys of a split: a multiple of the keys of every key tile. Part of what decides the order of sums.
enum { ATTENTION_SPLIT_KEYS = 1024 };

/// Forward kernels, and the one that merges splits.
typedef struct {
  AttentionCall call;
  /// Written: [queries, value_size] per batch entry and head.
  AttentionMatrix out;
  /// Written: natural logarithm of the sum of exp(score); null if nobody wants it.
  float *lse;
  uint64_t lse_batch;
  uint64_t lse_head;
  uint64_t lse_row;
  /// Query tiles of a batch entry, or of all packed sequences together at most.
  uint32_t query_tiles;
  /// Parts of ATTENTION_SPLIT_KEYS keys each that different blocks work on, from key `split_from` on, a multiple of that; 1 if
  /// one block has all keys of a query. Not for packed sequences.
  uint32_t splits;
  uint32_t split_from;
  uint32_t reserved;
  /// With several splits instead of out and lse: per split, batch entry, head and query value_size f32, the sums of weights
  /// times v, and an AttentionState. The merge kernel makes the results of them.
  float *split_outputs;
  AttentionState *split_states;
} AttentionForwardParams;

/// A tensor map as cuTensorMapEncodeTiled writes it: a matrix per batch entry and head, in boxes of 64 columns and the rows of a tile.
typedef struct {
  uint64_t words[16];
} __attribute__((aligned(128))) AttentionMap;

/// Forward kernels of compute capability 9.0, for masks of bands and lengths.
typedef struct {
  AttentionForwardParams forward;
  /// Maps of q, k and v. Heads and batch entries that repeat, with a stride of 0, are one in a map.
  AttentionMap q_map;
  AttentionMap k_map;
  AttentionMap v_map;
} AttentionForwardSm90aParams;

/// What the gradients of a query's scores need to know of it: its weights are exp2((score - origin) * log2_factor) * share.
typedef struct {
  /// The lse as a score; +inf if the query sees nothing.
  float origin;
  /// dot(dout, out) - dlse
  float delta;
  /// Close to 1: what makes up for the roundings of the lse and of the origin.
  float share;
  uint32_t reserved;
} AttentionRow;

/// A number for every query of every head.
typedef struct {
  /// First element; null if there is none.
  const float *data;
  /// Distances between batch entries (not used with packed sequences), heads and queries.
  uint64_t batch;
  uint64_t head;
  uint64_t row;
} AttentionVector;

/// Backward kernels. The call is that of the forward pass.
typedef struct {
  AttentionCall call;
  /// Results of the forward pass.
  AttentionMatrix out;
  AttentionVector lse;
  /// Gradients of them; no data if that of lse is 0.
  AttentionMatrix dout;
  AttentionVector dlse;
  /// [batch, heads, queries]. Written by the first kernel; the one that owns queries finds the shares, for those after it.
  AttentionRow *rows;
  /// Written: gradients of q, k and v.
  AttentionMatrix dq;
  AttentionMatrix dk;
  AttentionMatrix dv;
  /// Tiles of queries and of keys of a batch entry, or of all packed sequences together at most.
  uint32_t query_tiles;
  uint32_t key_tiles;
  /// Written if it has data: the gradient of the bias, of the bias's type. It has a number for every batch entry or packed sequence, every head,
  /// query and key, or where so many are 1, for all of them together.
  AttentionPairs dbias;
  uint32_t dbias_batch;
  uint32_t dbias_heads;
  /// Factor of the products that scores are made of.
  float scale;
  uint32_t reserved;
} AttentionBackwardParams;

/// Backward kernels of compute capability 9.0, for masks of bands and lengths.
typedef struct {
  AttentionBackwardParams backward;
  /// Maps of q, k, v and dout, as in the forward kernels.
  AttentionMap q_map;
  AttentionMap k_map;
  AttentionMap v_map;
  AttentionMap dout_map;
} AttentionBackwardSm90aParams;

#endif
