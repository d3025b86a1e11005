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
  @typedoc "A buffer: its handle, or the name that it is used by. Any other term is an unknown one."
  @type target :: handle() | atom() | term()
  @type index :: non_neg_integer()
  @type kind :: :queue | :map
  @type refused ::
          :closed
          | :unknown
          | :heavy
          | :improper
          | :no_partitions
          | :other_kind
          | :wait
          | :again
          | :full
          | :too_large
  @type written :: :ok | refused()
  @type inserted ::
          :ok
          | :closed
          | :no_partitions
          | :other_kind
          | :improper
          | {:heavy, index()}
          | {:wait, index()}
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

  defmodule BrokerFigures do
    @moduledoc false
    defstruct [
      :accepted,
      :started,
      :done,
      :failed,
      :cancelled,
      :dropped,
      :refused,
      :waiting,
      :bytes,
      :oldest_age_ns,
      :idle,
      :busy_ns
    ]
  end

  defmodule BrokerDrops do
    @moduledoc false
    defstruct [:queue_full, :queue_timeout, :queue_delay, :caller_down, :shutdown]
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

  @spec buffer_put_name(handle(), atom()) :: :ok
  def buffer_put_name(_handle, _name), do: not_loaded()

  @spec buffer_erase_name(handle(), atom()) :: :ok
  def buffer_erase_name(_handle, _name), do: not_loaded()

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

  @spec queue_push(target(), term()) :: written()
  def queue_push(_target, _item), do: not_loaded()

  @spec queue_push_dirty(handle(), term()) :: written()
  def queue_push_dirty(_handle, _item), do: not_loaded()

  @spec queue_push_to(handle(), term(), index()) :: written()
  def queue_push_to(_handle, _item, _index), do: not_loaded()

  @spec queue_push_to_dirty(handle(), term(), index()) :: written()
  def queue_push_to_dirty(_handle, _item, _index), do: not_loaded()

  @spec queue_push_list(target(), list()) :: written()
  def queue_push_list(_target, _items), do: not_loaded()

  @spec queue_push_list_dirty(handle(), list()) :: written()
  def queue_push_list_dirty(_handle, _items), do: not_loaded()

  @spec queue_push_routed(handle(), list(), [index()]) :: written()
  def queue_push_routed(_handle, _items, _indexes), do: not_loaded()

  @spec queue_push_routed_dirty(handle(), list(), [index()]) :: written()
  def queue_push_routed_dirty(_handle, _items, _indexes), do: not_loaded()

  @spec queue_wait_dirty(handle(), list(), [index()], reference(), token() | nil) ::
          :ok | {:ok, [token()]} | {:wait, ticket()} | refused()
  def queue_wait_dirty(_handle, _items, _indexes, _reference, _token), do: not_loaded()

  @spec queue_push_await(target(), term(), token()) :: :ok | refused()
  def queue_push_await(_target, _item, _token), do: not_loaded()

  @spec queue_push_awaited(handle(), list(), [index()], token(), boolean()) ::
          {:ok, [token()]} | refused()
  def queue_push_awaited(_handle, _items, _indexes, _token, _flush?), do: not_loaded()

  @spec queue_push_awaited_dirty(handle(), list(), [index()], token(), boolean()) ::
          {:ok, [token()]} | refused()
  def queue_push_awaited_dirty(_handle, _items, _indexes, _token, _flush?), do: not_loaded()

  # data_buffer

  @spec data_buffer_insert(atom(), term()) :: :who_listens | :listening | :unknown | inserted()
  def data_buffer_insert(_buffer, _item), do: not_loaded()

  @spec data_buffer_insert_to(handle(), term(), index()) :: inserted()
  def data_buffer_insert_to(_handle, _item, _index), do: not_loaded()

  @spec data_buffer_insert_to_dirty(handle(), term(), index()) :: inserted()
  def data_buffer_insert_to_dirty(_handle, _item, _index), do: not_loaded()

  @spec data_buffer_insert_all(atom(), list()) ::
          :who_listens | :listening | :unknown | inserted()
  def data_buffer_insert_all(_buffer, _items), do: not_loaded()

  @spec data_buffer_insert_all_to(handle(), list(), index()) :: inserted()
  def data_buffer_insert_all_to(_handle, _items, _index), do: not_loaded()

  @spec data_buffer_insert_all_to_dirty(handle(), list(), index()) :: inserted()
  def data_buffer_insert_all_to_dirty(_handle, _items, _index), do: not_loaded()

  @spec data_buffer_next(handle()) :: index()
  def data_buffer_next(_handle), do: not_loaded()

  @spec data_buffer_looked(handle(), boolean()) :: :ok
  def data_buffer_looked(_handle, _listening), do: not_loaded()

  @spec data_buffer_stand(handle(), list(), index(), token()) :: :ok | refused()
  def data_buffer_stand(_handle, _items, _index, _token), do: not_loaded()

  @spec data_buffer_step_out(handle(), index(), token()) :: boolean()
  def data_buffer_step_out(_handle, _index, _token), do: not_loaded()

  @spec data_buffer_arm(handle(), index(), non_neg_integer() | nil) :: boolean()
  def data_buffer_arm(_handle, _index, _full), do: not_loaded()

  @spec data_buffer_turn(handle(), index()) :: non_neg_integer()
  def data_buffer_turn(_handle, _index), do: not_loaded()

  @spec data_buffer_standings(handle(), index()) ::
          {base :: non_neg_integer(), size :: non_neg_integer(), full :: pos_integer() | nil,
           in_line :: non_neg_integer()}
  def data_buffer_standings(_handle, _index), do: not_loaded()

  # map

  @spec map_put(target(), term(), term(), index() | nil) :: written()
  def map_put(_target, _key, _value, _index), do: not_loaded()

  @spec map_put_dirty(target(), term(), term(), index() | nil) :: written()
  def map_put_dirty(_target, _key, _value, _index), do: not_loaded()

  @spec map_put_newer(target(), term(), term(), integer(), index() | nil) :: written()
  def map_put_newer(_target, _key, _value, _version, _index), do: not_loaded()

  @spec map_put_newer_dirty(target(), term(), term(), integer(), index() | nil) :: written()
  def map_put_newer_dirty(_target, _key, _value, _version, _index), do: not_loaded()

  @spec map_put_all(target(), list(), [index()] | nil, versioned :: boolean()) :: written()
  def map_put_all(_target, _entries, _indexes, _versioned), do: not_loaded()

  @spec map_put_all_dirty(handle(), list(), [index()] | nil, versioned :: boolean()) :: written()
  def map_put_all_dirty(_handle, _entries, _indexes, _versioned), do: not_loaded()

  @spec map_wait_dirty(
          handle(),
          list(),
          [index()],
          versioned? :: boolean(),
          reference(),
          token() | nil
        ) :: :ok | {:ok, [token()]} | {:wait, ticket()} | refused()
  def map_wait_dirty(_handle, _entries, _indexes, _versioned?, _reference, _token),
    do: not_loaded()

  @spec map_put_await(target(), term(), term(), index() | nil, token()) :: :ok | refused()
  def map_put_await(_target, _key, _value, _index, _token), do: not_loaded()

  @spec map_put_awaited(handle(), list(), [index()], token(), boolean()) ::
          {:ok, [token()]} | refused()
  def map_put_awaited(_handle, _entries, _indexes, _token, _flush?), do: not_loaded()

  @spec map_put_awaited_dirty(handle(), list(), [index()], token(), boolean()) ::
          {:ok, [token()]} | refused()
  def map_put_awaited_dirty(_handle, _entries, _indexes, _token, _flush?), do: not_loaded()

  @spec map_fetch(target(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_fetch(_target, _key, _index), do: not_loaded()

  @spec map_fetch_dirty(target(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_fetch_dirty(_target, _key, _index), do: not_loaded()

  @spec map_delete(target(), term(), index() | nil) :: written()
  def map_delete(_target, _key, _index), do: not_loaded()

  @spec map_delete_dirty(target(), term(), index() | nil) :: written()
  def map_delete_dirty(_target, _key, _index), do: not_loaded()

  @spec map_take(target(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_take(_target, _key, _index), do: not_loaded()

  @spec map_take_dirty(target(), term(), index() | nil) :: {:ok, term()} | :error | refused()
  def map_take_dirty(_target, _key, _index), do: not_loaded()

  @spec map_has_key(target(), term(), index() | nil) :: :ok | :error | refused()
  def map_has_key(_target, _key, _index), do: not_loaded()

  @spec map_has_key_dirty(target(), term(), index() | nil) :: :ok | :error | refused()
  def map_has_key_dirty(_target, _key, _index), do: not_loaded()

  @spec map_update(target(), term(), :add | :max | :min | :append, term(), index() | nil) ::
          :ok | :error | :wrong_type | :unsuited | refused()
  def map_update(_target, _key, _operation, _operand, _index), do: not_loaded()

  @spec map_compare_put_dirty(target(), term(), term(), term(), index() | nil) ::
          :ok | :error | :changed | refused()
  def map_compare_put_dirty(_target, _key, _expected, _value, _index), do: not_loaded()

  @spec map_put_new(target(), term(), term(), index() | nil) :: :ok | :changed | refused()
  def map_put_new(_target, _key, _value, _index), do: not_loaded()

  @spec map_put_new_dirty(target(), term(), term(), index() | nil) :: :ok | :changed | refused()
  def map_put_new_dirty(_target, _key, _value, _index), do: not_loaded()

  @spec map_remember_dirty(handle(), non_neg_integer()) :: :ok | refused()
  def map_remember_dirty(_handle, _count), do: not_loaded()

  @spec map_to_list_dirty(handle(), index()) :: [{term(), term()}] | refused()
  def map_to_list_dirty(_handle, _index), do: not_loaded()

  @spec map_keys_dirty(handle(), index()) :: [term()] | refused()
  def map_keys_dirty(_handle, _index), do: not_loaded()

  # partition

  @spec partition_swap(handle(), index()) :: non_neg_integer()
  def partition_swap(_handle, _index), do: not_loaded()

  @spec partition_claim(handle(), index()) :: :ok | :not_owner
  def partition_claim(_handle, _index), do: not_loaded()

  @spec partition_arm(handle(), index(), pos_integer() | nil, pos_integer() | nil) :: boolean()
  def partition_arm(_handle, _index, _entries, _bytes), do: not_loaded()

  @spec partition_attend(handle(), index(), boolean(), boolean()) :: :ok
  def partition_attend(_handle, _index, _in_turn, _manual), do: not_loaded()

  @spec partition_begin(handle(), index(), atom()) :: :woken | :nothing | :noted | :paused
  def partition_begin(_handle, _index, _trigger), do: not_loaded()

  @spec partition_idle(handle(), index(), pid()) ::
          {:waits, atom()} | {atom(), pos_integer()} | :ends
  def partition_idle(_handle, _index, _attendant), do: not_loaded()

  @spec partition_leave(handle(), index(), unsaid :: atom()) :: :ok
  def partition_leave(_handle, _index, _unsaid), do: not_loaded()

  @spec partition_send_away(handle(), index(), non_neg_integer()) :: :ok | non_neg_integer()
  def partition_send_away(_handle, _index, _cycles), do: not_loaded()

  @spec partition_pending(handle(), index()) :: boolean()
  def partition_pending(_handle, _index), do: not_loaded()

  @spec partition_noted(handle(), index()) :: atom()
  def partition_noted(_handle, _index), do: not_loaded()

  @spec partition_scheduled(handle(), index(), non_neg_integer() | nil) :: :ok
  def partition_scheduled(_handle, _index, _ms), do: not_loaded()

  @spec clock() :: integer()
  def clock, do: not_loaded()

  @spec partition_pause(handle(), index(), boolean()) :: :ok
  def partition_pause(_handle, _index, _paused), do: not_loaded()

  @spec partition_await(handle(), index(), token()) :: boolean()
  def partition_await(_handle, _index, _token), do: not_loaded()

  @spec partition_await_newest(handle(), index(), token()) :: boolean()
  def partition_await_newest(_handle, _index, _token), do: not_loaded()

  @spec partition_await_no_more(handle(), index(), token()) :: boolean()
  def partition_await_no_more(_handle, _index, _token), do: not_loaded()

  @spec partition_next(handle(), index(), result :: term(), look_at :: integer()) ::
          nonempty_list() | :look | :large | :dirty | :table | :empty | :paused | :not_owner
  def partition_next(_handle, _index, _result, _look_at), do: not_loaded()

  @spec partition_next_dirty(handle(), index(), result :: term()) ::
          nonempty_list() | :table | :empty | :expired_some | :paused | :not_owner
  def partition_next_dirty(_handle, _index, _result), do: not_loaded()

  @type first :: nonempty_list() | :large | :expired_some
  @type advanced ::
          first()
          | {atom(), pos_integer(), first()}
          | :waits
          | {:waits, atom(), much? :: boolean()}
          | :ends
          | :look
          | :dirty
          | :table
          | :not_owner
  @spec partition_advance(handle(), index(), pid(), result :: term(), look_at :: integer()) ::
          advanced()
  def partition_advance(_handle, _index, _attendant, _result, _look_at), do: not_loaded()

  @spec partition_advance_dirty(handle(), index(), pid(), result :: term()) :: advanced()
  def partition_advance_dirty(_handle, _index, _attendant, _result), do: not_loaded()

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

  @spec partition_elapsed(handle(), index()) :: non_neg_integer() | nil
  def partition_elapsed(_handle, _index), do: not_loaded()

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

  @spec partition_returned(handle(), index()) :: :ok | :not_owner
  def partition_returned(_handle, _index), do: not_loaded()

  @spec partition_time_out(handle(), index(), timeout_ms :: non_neg_integer()) ::
          non_neg_integer() | nil
  def partition_time_out(_handle, _index, _timeout_ms), do: not_loaded()

  @spec partition_fail(handle(), index(), reason()) :: :ok | :not_owner
  def partition_fail(_handle, _index, _reason), do: not_loaded()

  @spec partition_fail_some(handle(), index(), [non_neg_integer()]) :: boolean() | :not_owner
  def partition_fail_some(_handle, _index, _failed), do: not_loaded()

  @spec partition_settle(handle(), index(), reason(), again :: boolean()) ::
          :ok
          | {:again | :halved, attempts :: pos_integer(), size :: pos_integer()}
          | {:discarded, reason(), size :: pos_integer()}
          | {:processed, size :: pos_integer()}
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

  # broker

  @typedoc "Messages that wait, and workers."
  @type broker :: reference()
  @type worker :: reference()
  @type broker_settings ::
          {:fifo | :lifo, non_neg_integer() | nil, :newest | :oldest, non_neg_integer(),
           non_neg_integer() | nil, {pos_integer(), pos_integer()} | nil, :fifo | :lifo}
  @type message_id :: pos_integer()
  @type asked ::
          message_id()
          | {:wait, message_id()}
          | :queue_full
          | :no_worker
          | :closed
          | :heavy
  @type taken ::
          {message :: term(), reply :: term(), non_neg_integer(), message_id()}
          | :idle
          | :attend
          | :again
          | :heavy
          | :gone
  @type drop_reason ::
          :queue_full | :queue_timeout | :queue_delay | :caller_down | :shutdown

  @spec broker_open(String.t(), pos_integer(), one_order :: boolean(), broker_settings()) ::
          {:created | :adopted, broker()}
  def broker_open(_name, _partitions, _one_order?, _settings), do: not_loaded()

  @spec broker_configure(broker(), broker_settings()) :: :ok
  def broker_configure(_broker, _settings), do: not_loaded()

  @spec broker_work_alone(broker(), boolean()) :: :ok
  def broker_work_alone(_broker, _alone?), do: not_loaded()

  @spec broker_time(broker(), sums_only? :: boolean()) :: :ok
  def broker_time(_broker, _sums_only?), do: not_loaded()

  @spec broker_attend(broker(), 0..255, boolean()) :: :ok
  def broker_attend(_broker, _bits, _set?), do: not_loaded()

  @spec broker_attention(broker()) :: 0..255
  def broker_attention(_broker), do: not_loaded()

  @spec broker_close(broker()) :: :ok
  def broker_close(_broker), do: not_loaded()

  @spec broker_release(broker()) :: :ok
  def broker_release(_broker), do: not_loaded()

  @spec broker_names() :: [String.t()]
  def broker_names, do: not_loaded()

  @spec broker_take_rest(broker(), pos_integer()) :: [{term(), term()}]
  def broker_take_rest(_broker, _count), do: not_loaded()

  @spec broker_ask(broker(), term(), term(), pid() | nil, non_neg_integer() | nil, boolean()) ::
          asked()
  def broker_ask(_broker, _message, _reply, _caller, _timeout, _idle_only), do: not_loaded()

  @spec broker_ask_dirty(
          broker(),
          term(),
          term(),
          pid() | nil,
          non_neg_integer() | nil,
          boolean()
        ) ::
          asked()
  def broker_ask_dirty(_broker, _message, _reply, _caller, _timeout, _idle_only),
    do: not_loaded()

  @spec broker_hand_over(broker(), term(), term()) ::
          message_id()
          | {:handed, message_id()}
          | {:wait, message_id()}
          | :queue_full
          | :closed
          | :heavy
  def broker_hand_over(_broker, _message, _reply), do: not_loaded()

  @spec broker_request(atom(), term(), term()) ::
          message_id()
          | {:stored, message_id()}
          | {:wait, message_id()}
          | :queue_full
          | :closed
          | :no_worker
          | :heavy
          | :unknown
  def broker_request(_pool, _message, _reply), do: not_loaded()

  @spec broker_post(atom(), term()) :: :ok | asked_by_name()
  def broker_post(_pool, _message), do: not_loaded()

  @spec broker_put_pool(broker(), atom(), keeper :: atom(), watch :: pid()) :: :ok
  def broker_put_pool(_broker, _pool, _keeper, _watch), do: not_loaded()

  @spec broker_erase_pool(broker(), atom()) :: :ok
  def broker_erase_pool(_broker, _pool), do: not_loaded()

  @spec broker_put_name(broker(), atom(), boolean(), boolean()) :: :ok
  def broker_put_name(_broker, _name, _plain_send?, _plain_call?), do: not_loaded()

  @spec broker_erase_name(broker(), atom()) :: :ok
  def broker_erase_name(_broker, _name), do: not_loaded()

  @typedoc "Besides, `:unknown`, if no broker has the name; or `:observed`, if there is more to be done."
  @type asked_by_name ::
          {:wait, message_id()} | :queue_full | :closed | :heavy | :unknown | :observed

  @spec broker_send(term(), term()) :: :ok | asked_by_name()
  def broker_send(_name, _message), do: not_loaded()

  @spec broker_call(term(), term(), term()) ::
          message_id() | {:stored, message_id()} | asked_by_name()
  def broker_call(_name, _message, _reply), do: not_loaded()

  @spec broker_start(worker(), message_id(), measured :: boolean()) :: non_neg_integer() | nil
  def broker_start(_worker, _id, _measured?), do: not_loaded()

  @spec broker_cancel(broker(), message_id()) :: boolean()
  def broker_cancel(_broker, _id), do: not_loaded()

  @spec broker_abandon(broker(), message_id()) :: :taken_back | :abandoned | :through
  def broker_abandon(_broker, _id), do: not_loaded()

  @spec broker_join(broker()) :: worker()
  def broker_join(_broker), do: not_loaded()

  @spec broker_take(worker()) :: taken()
  def broker_take(_worker), do: not_loaded()

  @spec broker_take_along(worker(), patient? :: boolean()) ::
          taken() | [message :: term(), ...] | :soon
  def broker_take_along(_worker, _patient?), do: not_loaded()

  @spec broker_begin(worker()) :: boolean()
  def broker_begin(_worker), do: not_loaded()

  @spec broker_take_dirty(worker()) :: taken()
  def broker_take_dirty(_worker), do: not_loaded()

  @spec broker_withdraw(worker()) :: :ok
  def broker_withdraw(_worker), do: not_loaded()

  @spec broker_done(worker(), failed :: boolean()) :: :ok
  def broker_done(_worker, _failed), do: not_loaded()

  @spec broker_reply(worker(), pid(), term(), failed :: boolean()) :: :ok
  def broker_reply(_worker, _pid, _answer, _failed), do: not_loaded()

  @spec broker_reply_take(worker(), term(), term()) :: taken() | :elsewhere
  def broker_reply_take(_worker, _to, _answer), do: not_loaded()

  @spec broker_reply_rest(worker(), term(), term()) ::
          :idle | :attend | :again | :gone | :elsewhere
  def broker_reply_rest(_worker, _to, _answer), do: not_loaded()

  @spec broker_put_end(broker(), term()) :: :ok
  def broker_put_end(_broker, _reason), do: not_loaded()

  @spec broker_end(broker()) :: {:ok, term()} | :error
  def broker_end(_broker), do: not_loaded()

  @spec broker_defer(worker(), pid()) :: :ok
  def broker_defer(_worker, _pid), do: not_loaded()

  @spec broker_answer(broker(), message_id(), pid(), term()) :: boolean()
  def broker_answer(_broker, _id, _pid, _answer), do: not_loaded()

  @spec broker_deferred(broker()) :: non_neg_integer()
  def broker_deferred(_broker), do: not_loaded()

  @spec broker_leave(worker()) :: :ok
  def broker_leave(_worker), do: not_loaded()

  @spec broker_keep(broker()) :: [pid()]
  def broker_keep(_broker), do: not_loaded()

  @spec broker_in_flight(broker(), pid()) :: [term()]
  def broker_in_flight(_broker, _pid), do: not_loaded()

  @spec broker_dismiss(broker(), pid()) :: :ok
  def broker_dismiss(_broker, _pid), do: not_loaded()

  @spec broker_down(broker(), pid()) :: non_neg_integer()
  def broker_down(_broker, _pid), do: not_loaded()

  @spec broker_expire(broker()) :: :ok
  def broker_expire(_broker), do: not_loaded()

  @spec broker_armed(broker()) :: non_neg_integer() | nil
  def broker_armed(_broker), do: not_loaded()

  @spec broker_sweep(broker(), index(), message_id() | 0) :: message_id() | nil
  def broker_sweep(_broker, _partition, _after), do: not_loaded()

  @spec broker_dropped(broker(), pos_integer()) ::
          {[{term(), drop_reason() | {:"$broker_late", drop_reason()}}], [non_neg_integer()]}
  def broker_dropped(_broker, _count), do: not_loaded()

  @spec broker_untold(broker()) :: non_neg_integer()
  def broker_untold(_broker), do: not_loaded()

  @spec broker_reported(broker(), non_neg_integer(), [non_neg_integer()]) :: :ok
  def broker_reported(_broker, _count, _counts), do: not_loaded()

  @spec broker_want_room(broker()) :: non_neg_integer()
  def broker_want_room(_broker), do: not_loaded()

  @spec broker_size(broker()) :: non_neg_integer()
  def broker_size(_broker), do: not_loaded()

  @spec broker_idle(broker()) :: non_neg_integer()
  def broker_idle(_broker), do: not_loaded()

  @spec broker_workers(broker()) :: [pid()]
  def broker_workers(_broker), do: not_loaded()

  @spec broker_partitions(broker()) :: pos_integer()
  def broker_partitions(_broker), do: not_loaded()

  @spec broker_info(broker()) :: %BrokerFigures{}
  def broker_info(_broker), do: not_loaded()

  @spec broker_crew(broker()) :: [
          {pid(), :running | :woken | :idle | :gone, non_neg_integer(), non_neg_integer(),
           non_neg_integer(), non_neg_integer() | nil}
        ]
  def broker_crew(_broker), do: not_loaded()

  # cell

  @typedoc "A term with a version."
  @type cell :: reference()
  @type version :: pos_integer()

  @spec cell_new(term()) :: {version(), cell()} | :heavy
  def cell_new(_term), do: not_loaded()

  @spec cell_new_dirty(term()) :: {version(), cell()} | :heavy
  def cell_new_dirty(_term), do: not_loaded()

  @spec cell_get(cell(), version() | nil) :: {version(), term()} | :unchanged | :heavy
  def cell_get(_cell, _known), do: not_loaded()

  @spec cell_get_dirty(cell(), version() | nil) :: {version(), term()} | :unchanged
  def cell_get_dirty(_cell, _known), do: not_loaded()

  @spec cell_update(cell(), version(), term()) :: version() | :changed | :heavy
  def cell_update(_cell, _version, _term), do: not_loaded()

  @spec cell_update_dirty(cell(), version(), term()) :: version() | :changed | :heavy
  def cell_update_dirty(_cell, _version, _term), do: not_loaded()

  @spec cell_answer(cell(), version(), term(), worker(), pid() | nil, term()) ::
          version() | :changed | :heavy
  def cell_answer(_cell, _version, _term, _worker, _to, _answer), do: not_loaded()

  @spec cell_answer_take(cell(), version(), term(), worker(), pid() | nil, term(), 0..15) ::
          version()
          | {version() | :changed, message :: term(), reply :: term(), non_neg_integer(),
             message_id()}
          | {version() | {version(), term()} | :heavy, [message :: term(), ...]}
          | {version(), :idle | :again | :heavy | :gone}
          | {:changed, {version(), term()}}
          | :changed
          | :heavy
  def cell_answer_take(_cell, _version, _term, _worker, _to, _answer, _how), do: not_loaded()

  @spec cell_begin(cell(), version(), term(), worker(), 0..3) ::
          version()
          | {version(), term()}
          | :begun
          | {:again, version()}
          | {:changed, {version(), term()}}
          | :changed
          | :heavy
  def cell_begin(_cell, _version, _term, _worker, _how), do: not_loaded()

  @spec cell_held(cell()) :: boolean()
  def cell_held(_cell), do: not_loaded()

  @spec cell_share(cell(), turns(), boolean()) :: :ok
  def cell_share(_cell, _turns, _have?), do: not_loaded()

  @spec cell_start(cell(), version() | nil, worker(), message_id()) ::
          {version(), term()} | :unchanged | :heavy | nil
  def cell_start(_cell, _known, _worker, _id), do: not_loaded()

  @spec cell_stage_dirty(term()) :: reference() | :heavy
  def cell_stage_dirty(_term), do: not_loaded()

  @spec cell_answer_staged(cell(), version(), reference(), worker(), pid() | nil, term()) ::
          version() | :changed
  def cell_answer_staged(_cell, _version, _staged, _worker, _to, _answer), do: not_loaded()

  # turns

  @typedoc "Who has the turn, and who waits for it."
  @type turns :: reference()

  @spec turns_new() :: turns()
  def turns_new, do: not_loaded()

  @spec turns_join(turns()) :: :ok
  def turns_join(_turns), do: not_loaded()

  @spec turns_take(turns()) :: :ok | :wait
  def turns_take(_turns), do: not_loaded()

  @spec turns_leave(turns()) :: :ok
  def turns_leave(_turns), do: not_loaded()

  @spec turns_close(turns()) :: :ok
  def turns_close(_turns), do: not_loaded()

  @spec turns_held(turns()) :: boolean()
  def turns_held(_turns), do: not_loaded()

  @spec turns_len(turns()) :: non_neg_integer()
  def turns_len(_turns), do: not_loaded()

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
