%% The table of handlers.
%%
%% Executing an event is by far the most frequent operation and happens in the process of the
%% caller: one lookup by event name in a public table with read concurrency, no message. Changes
%% go through the owner, so that "this id is free" and "now it is taken" are one step.
-module(telemetry_handlers).

-behaviour(gen_server).

-export([start_link/0, insert/4, delete/1, for_event/1, for_prefix/1]).
-export([init/1, handle_call/3, handle_cast/2]).

-include("telemetry_handler.hrl").

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

insert(Id, Events, Function, Config) ->
    gen_server:call(?MODULE, {insert, Id, Events, Function, Config}).

delete(Id) ->
    gen_server:call(?MODULE, {delete, Id}).

%% Handlers of exactly this event. Fails with `badarg' while the application is not running.
for_event(Event) ->
    ets:lookup(?MODULE, Event).

for_prefix(Prefix) ->
    [Handler || Handler <- ets:tab2list(?MODULE), lists:prefix(Prefix, Handler#handler.event)].

init([]) ->
    %% A bag: one event has many handlers, and they run in the order in which they were attached.
    _ = ets:new(?MODULE, [
        duplicate_bag, protected, named_table, {keypos, #handler.event}, {read_concurrency, true}
    ]),
    {ok, no_state}.

handle_call({insert, Id, Events, Function, Config}, _From, State) ->
    Reply =
        case taken(Id) of
            true ->
                {error, already_exists};
            false ->
                Handlers = [
                    #handler{event = Event, id = Id, function = Function, config = Config}
                 || Event <- Events
                ],
                true = ets:insert(?MODULE, Handlers),
                ok
        end,
    {reply, Reply, State};
handle_call({delete, Id}, _From, State) ->
    Reply =
        case taken(Id) of
            true ->
                true = ets:match_delete(?MODULE, #handler{id = Id, _ = '_'}),
                ok;
            false ->
                {error, not_found}
        end,
    {reply, Reply, State}.

handle_cast(_Message, State) ->
    {noreply, State}.

taken(Id) ->
    ets:match(?MODULE, #handler{id = Id, _ = '_'}, 1) =/= '$end_of_table'.
