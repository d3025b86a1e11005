defmodule PartitionedBuffer.Native do
  @moduledoc false
  # The functions of the native library, section by section as in native/buffer_nif/src. Nothing
  # else is here: what they do, what they cost and what they answer stands with each in Rust.
  #
  # Invariant: nothing outside `PartitionedBuffer.*` calls them, and none of them can crash the VM,
  # whatever it is given.

  version = Mix.Project.config()[:version]
  source_url = Mix.Project.config()[:source_url]

  use RustlerPrecompiled,
    otp_app: :partitioned_buffer,
    crate: "buffer_nif",
    path: "native/buffer_nif",
    base_url: "#{source_url}/releases/download/v#{version}",
    version: version,
    nif_versions: ["2.16"],
    targets: [
      "aarch64-apple-darwin",
      "aarch64-unknown-linux-gnu",
      "aarch64-unknown-linux-musl",
      "x86_64-apple-darwin",
      "x86_64-unknown-linux-gnu",
      "x86_64-unknown-linux-musl"
    ]

  @typedoc "A buffer's storage."
  @type handle :: reference()
  @type index :: non_neg_integer()
  @type kind :: :queue | :map
  @type refused ::
          :closed
          | :heavy
          | :improper
          | :no_partitions
          | :other_kind
          | :wait
          | :full
          | :too_large
  @type written :: :ok | refused()
  @type reason ::
          :exception | :killed | :timeout | :shutdown | :failed | :expired | :overflow
  @type token :: non_neg_integer()
  @type ticket :: non_neg_integer()

  # What the native side encodes with serde.
  defmodule Stats do
    @moduledoc false
    defstruct [
      :accepted,
      :processed,
      :superseded,
      :deleted,
      :discarded,
      :queued,
      :in_flight,
      :bytes,
      :high_water,
      :retries,
      :oldest_age_ns
    ]
  end

  defmodule Discarded do
    @moduledoc false
    defstruct [:exception, :killed, :timeout, :shutdown, :failed, :expired, :overflow]
  end

  defmodule Alive do
    @moduledoc false
    defstruct [:arenas, :entries, :bytes]
  end

  # buffer

  @spec buffer_open(String.t(), kind(), non_neg_integer()) ::
          {:created | :adopted | :mismatch, handle()}
  def buffer_open(_name, _kind, _partitions), do: not_loaded()

  @spec buffer_replace(handle(), kind(), pos_integer()) :: {:ok, handle()} | :other_kind
  def buffer_replace(_handle, _kind, _partitions), do: not_loaded()

  @spec buffer_close(handle()) :: :ok
  def buffer_close(_handle), do: not_loaded()

  @spec buffer_partitions(handle()) :: non_neg_integer()
  def buffer_partitions(_handle), do: not_loaded()

  @spec buffer_len(handle()) :: non_neg_integer()
  def buffer_len(_handle), do: not_loaded()

  @spec buffer_put_settings(handle(), term(), map()) :: :ok
  def buffer_put_settings(_handle, _settings, _rules), do: not_loaded()

  @spec buffer_give_up(handle(), ticket()) :: boolean()
  def buffer_give_up(_handle, _ticket), do: not_loaded()

  @spec buffer_waiting(handle()) :: non_neg_integer()
  def buffer_waiting(_handle), do: not_loaded()

  @spec buffer_forget_dead(handle()) :: :ok
  def buffer_forget_dead(_handle), do: not_loaded()

  @spec buffer_rejected(handle()) :: :ok
  def buffer_rejected(_handle), do: not_loaded()

  @spec buffer_since(handle()) :: non_neg_integer()
  def buffer_since(_handle), do: not_loaded()

  @spec buffer_settings(handle()) :: [term()]
  def buffer_settings(_handle), do: not_loaded()

  # queue

  @spec queue_push(handle(), term()) :: written()
  def queue_push(_handle, _item), do: not_loaded()

  @spec queue_push_dirty(handle(), term()) :: written()
  def queue_push_dirty(_handle, _item), do: not_loaded()

  @spec queue_push_to(handle(), term(), index()) :: written()
  def queue_push_to(_handle, _item, _index), do: not_loaded()

  @spec queue_push_to_dirty(handle(), term(), index()) :: written()
  def queue_push_to_dirty(_handle, _item, _index), do: not_loaded()

  @spec queue_push_list(handle(), list()) :: written()
  def queue_push_list(_handle, _items), do: not_loaded()

  @spec queue_push_list_dirty(handle(), list()) :: written()
  def queue_push_list_dirty(_handle, _items), do: not_loaded()

  @spec queue_push_routed(handle(), list(), [index()]) :: written()
  def queue_push_routed(_handle, _items, _indexes), do: not_loaded()

  @spec queue_push_routed_dirty(handle(), list(), [index()]) :: written()
  def queue_push_routed_dirty(_handle, _items, _indexes), do: not_loaded()

  @spec queue_wait_dirty(handle(), list(), [index()], reference(), token() | nil) ::
          :ok | {:ok, [token()]} | {:wait, ticket()} | refused()
  def queue_wait_dirty(_handle, _items, _indexes, _reference, _token), do: not_loaded()

  @spec queue_push_awaited(handle(), list(), [index()], token()) :: {:ok, [token()]} | refused()
  def queue_push_awaited(_handle, _items, _indexes, _token), do: not_loaded()

  @spec queue_push_awaited_dirty(handle(), list(), [index()], token()) ::
          {:ok, [token()]} | refused()
  def queue_push_awaited_dirty(_handle, _items, _indexes, _token), do: not_loaded()

  # map

  @spec map_put(handle(), term(), term(), index() | nil) :: written()
  def map_put(_handle, _key, _value, _index), do: not_loaded()

  @spec map_put_dirty(handle(), term(), term(), index() | nil) :: written()
  def map_put_dirty(_handle, _key, _value, _index), do: not_loaded()

  @spec map_put_newer(handle(), term(), term(), integer(), index() | nil) :: written()
  def map_put_newer(_handle, _key, _value, _version, _index), do: not_loaded()

  @spec map_put_newer_dirty(handle(), term(), term(), integer(), index() | nil) :: written()
  def map_put_newer_dirty(_handle, _key, _value, _version, _index), do: not_loaded()

  @spec map_put_all(handle(), list(), [index()] | nil) :: written()
  def map_put_all(_handle, _entries, _indexes), do: not_loaded()

  @spec map_put_all_dirty(handle(), list(), [index()] | nil) :: written()
  def map_put_all_dirty(_handle, _entries, _indexes), do: not_loaded()

  @spec map_wait_dirty(handle(), list(), [index()], reference(), token() | nil) ::
          :ok | {:ok, [token()]} | {:wait, ticket()} | refused()
  def map_wait_dirty(_handle, _entries, _indexes, _reference, _token), do: not_loaded()

  @spec map_put_awaited(handle(), list(), [index()], token()) :: {:ok, [token()]} | refused()
  def map_put_awaited(_handle, _entries, _indexes, _token), do: not_loaded()

  @spec map_put_awaited_dirty(handle(), list(), [index()], token()) ::
          {:ok, [token()]} | refused()
  def map_put_awaited_dirty(_handle, _entries, _indexes, _token), do: not_loaded()

  @spec map_fetch(handle(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_fetch(_handle, _key, _index), do: not_loaded()

  @spec map_fetch_dirty(handle(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_fetch_dirty(_handle, _key, _index), do: not_loaded()

  @spec map_delete(handle(), term(), index() | nil) :: written()
  def map_delete(_handle, _key, _index), do: not_loaded()

  @spec map_delete_dirty(handle(), term(), index() | nil) :: written()
  def map_delete_dirty(_handle, _key, _index), do: not_loaded()

  @spec map_take(handle(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_take(_handle, _key, _index), do: not_loaded()

  @spec map_take_dirty(handle(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_take_dirty(_handle, _key, _index), do: not_loaded()

  @spec map_has_key(handle(), term(), index() | nil) :: :ok | :error | refused()
  def map_has_key(_handle, _key, _index), do: not_loaded()

  @spec map_has_key_dirty(handle(), term(), index() | nil) :: :ok | :error | refused()
  def map_has_key_dirty(_handle, _key, _index), do: not_loaded()

  @spec map_update(handle(), term(), :add | :max | :min | :append, term(), index() | nil) ::
          :ok | :error | :wrong_type | :unsuited | refused()
  def map_update(_handle, _key, _operation, _operand, _index), do: not_loaded()

  @spec map_compare_put_dirty(handle(), term(), term(), term(), index() | nil) ::
          :ok | :error | :changed | refused()
  def map_compare_put_dirty(_handle, _key, _expected, _value, _index), do: not_loaded()

  @spec map_put_new(handle(), term(), term(), index() | nil) :: :ok | :changed | refused()
  def map_put_new(_handle, _key, _value, _index), do: not_loaded()

  @spec map_put_new_dirty(handle(), term(), term(), index() | nil) :: :ok | :changed | refused()
  def map_put_new_dirty(_handle, _key, _value, _index), do: not_loaded()

  @spec map_remember_dirty(handle(), non_neg_integer()) :: :ok | refused()
  def map_remember_dirty(_handle, _count), do: not_loaded()

  @spec map_to_list_dirty(handle(), index()) :: [{term(), term()}] | refused()
  def map_to_list_dirty(_handle, _index), do: not_loaded()

  @spec map_keys_dirty(handle(), index()) :: [term()] | refused()
  def map_keys_dirty(_handle, _index), do: not_loaded()

  # partition

  @spec partition_swap(handle(), index()) :: non_neg_integer()
  def partition_swap(_handle, _index), do: not_loaded()

  @spec partition_draining(handle(), index()) :: non_neg_integer()
  def partition_draining(_handle, _index), do: not_loaded()

  @spec partition_claim(handle(), index()) :: :ok | :not_owner
  def partition_claim(_handle, _index), do: not_loaded()

  @spec partition_arm(handle(), index(), pos_integer() | nil, pos_integer() | nil) :: boolean()
  def partition_arm(_handle, _index, _entries, _bytes), do: not_loaded()

  @spec partition_want(handle(), index()) :: :ok
  def partition_want(_handle, _index), do: not_loaded()

  @spec partition_wanted(handle(), index()) :: boolean()
  def partition_wanted(_handle, _index), do: not_loaded()

  @spec partition_triggered(handle(), index(), atom()) :: :ok
  def partition_triggered(_handle, _index, _trigger), do: not_loaded()

  @spec partition_scheduled(handle(), index(), non_neg_integer() | nil) :: :ok
  def partition_scheduled(_handle, _index, _ms), do: not_loaded()

  @spec partition_pause(handle(), index(), boolean()) :: :ok
  def partition_pause(_handle, _index, _paused), do: not_loaded()

  @spec partition_await(handle(), index(), token()) :: boolean()
  def partition_await(_handle, _index, _token), do: not_loaded()

  @spec partition_await_no_more(handle(), index(), token()) :: boolean()
  def partition_await_no_more(_handle, _index, _token), do: not_loaded()

  @spec partition_next(handle(), index(), result :: term()) ::
          nonempty_list() | :large | :dirty | :table | :empty | :paused | :not_owner
  def partition_next(_handle, _index, _result), do: not_loaded()

  @spec partition_next_dirty(handle(), index(), result :: term()) ::
          nonempty_list() | :table | :empty | :expired_some | :paused | :not_owner
  def partition_next_dirty(_handle, _index, _result), do: not_loaded()

  @spec partition_done(handle(), index(), result :: term()) :: non_neg_integer() | :not_owner
  def partition_done(_handle, _index, _result), do: not_loaded()

  @spec partition_start_all(handle(), index(), result :: term()) ::
          pos_integer() | :empty | :paused | :not_owner
  def partition_start_all(_handle, _index, _result), do: not_loaded()

  @spec partition_batch(handle(), index()) ::
          {first :: pos_integer(), last :: pos_integer(), attempt :: pos_integer(),
           size :: non_neg_integer()}
          | nil
  def partition_batch(_handle, _index), do: not_loaded()

  @spec partition_copy_dirty(handle(), index()) :: list()
  def partition_copy_dirty(_handle, _index), do: not_loaded()

  @spec partition_peek_dirty(handle(), index(), non_neg_integer(), pos_integer()) ::
          {list(), non_neg_integer()}
  def partition_peek_dirty(_handle, _index, _cursor, _count), do: not_loaded()

  @spec partition_dump_dirty(handle(), index(), place :: non_neg_integer(), pos_integer()) ::
          {list(), non_neg_integer()}
  def partition_dump_dirty(_handle, _index, _place, _count), do: not_loaded()

  @spec partition_again(handle(), index()) ::
          {len :: pos_integer(), [non_neg_integer()] | nil} | nil
  def partition_again(_handle, _index), do: not_loaded()

  @spec partition_expire(handle(), index()) :: boolean()
  def partition_expire(_handle, _index), do: not_loaded()

  @spec partition_status(handle(), index()) :: {pid() | nil, non_neg_integer() | nil}
  def partition_status(_handle, _index), do: not_loaded()

  @spec partition_fail(handle(), index(), reason()) :: :ok | :not_owner
  def partition_fail(_handle, _index, _reason), do: not_loaded()

  @spec partition_fail_some(handle(), index(), [non_neg_integer()]) :: boolean() | :not_owner
  def partition_fail_some(_handle, _index, _failed), do: not_loaded()

  @spec partition_settle(handle(), index(), reason(), again :: boolean()) ::
          :ok
          | {:again | :halved, attempts :: pos_integer(), size :: pos_integer()}
          | {:discarded, reason(), size :: pos_integer()}
  def partition_settle(_handle, _index, _reason, _again), do: not_loaded()

  @spec partition_next_kept(handle(), index()) ::
          {entries :: nonempty_list(), reason(), first :: non_neg_integer(),
           last :: non_neg_integer(), attempts :: non_neg_integer()}
          | nil
  def partition_next_kept(_handle, _index), do: not_loaded()

  @spec partition_kept(handle(), index()) :: non_neg_integer()
  def partition_kept(_handle, _index), do: not_loaded()

  @spec partition_discard_rest(handle(), index(), reason()) :: non_neg_integer()
  def partition_discard_rest(_handle, _index, _reason), do: not_loaded()

  @spec partition_unreported(handle(), index()) ::
          [{reason(), size :: pos_integer(), bytes :: non_neg_integer()}]
  def partition_unreported(_handle, _index), do: not_loaded()

  @spec partition_reported(handle(), index(), non_neg_integer()) :: :ok
  def partition_reported(_handle, _index, _count), do: not_loaded()

  @spec partition_closed(handle(), index()) :: boolean()
  def partition_closed(_handle, _index), do: not_loaded()

  # info

  @spec info_partition(handle(), index()) :: %Stats{}
  def info_partition(_handle, _index), do: not_loaded()

  @spec info_mark(handle(), index()) :: {non_neg_integer() | nil, atom() | nil}
  def info_mark(_handle, _index), do: not_loaded()

  @spec info_room(handle()) ::
          {{non_neg_integer(), non_neg_integer()} | nil, non_neg_integer(), non_neg_integer()}
  def info_room(_handle), do: not_loaded()

  @spec info_alive() :: %Alive{}
  def info_alive, do: not_loaded()

  defp not_loaded, do: :erlang.nif_error(:nif_not_loaded)
end
