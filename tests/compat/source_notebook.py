"""The source notebook, checkpoints 1 to 4: its code, cell by cell, in its order and its words.

Reconstructed from a printed copy. The first import is the only change; a line that the print cuts
off, or lacks, is completed and marked. ``DATA`` (path of an ANI-1 file) and ``EPOCHS`` (30 there)
are set by whoever runs it. What the notebook gets wrong stays as it is: it is here to run, not to
be followed.
"""
# ruff: noqa
# fmt: off

# %% Checkpoint 1: In [1]
import warnings
warnings.filterwarnings("ignore", category=UserWarning)
import numpy as np
from tqdm import tqdm
import torch
import torch.nn as nn
import anipot.compat.torchani as torchani

print(torch.__version__)
print(torchani.__version__)

# %% In [2]
device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
print(device)

# %% In [3]
def init_aev_computer():
    Rcr = 5.2
    Rca = 3.5
    EtaR = torch.tensor([16], dtype=torch.float, device=device)
    ShfR = torch.tensor([
        0.900000, 1.168750, 1.437500, 1.706250,
        1.975000, 2.243750, 2.512500, 2.781250,
        3.050000, 3.318750, 3.587500, 3.856250,
        4.125000, 4.393750, 4.662500, 4.931250
    ], dtype=torch.float, device=device)

    EtaA = torch.tensor([8], dtype=torch.float, device=device)
    Zeta = torch.tensor([32], dtype=torch.float, device=device)
    ShfA = torch.tensor([0.90, 1.55, 2.20, 2.85], dtype=torch.float, device=device)  # completed
    ShfZ = torch.tensor([
        0.19634954, 0.58904862, 0.9817477, 1.37444680,
        1.76714590, 2.15984490, 2.5525440, 2.94524300
    ], dtype=torch.float, device=device)

    num_species = 4
    aev_computer = torchani.AEVComputer(
        Rcr, Rca, EtaR, ShfR, EtaA, Zeta, ShfA, ShfZ, num_species
    )
    return aev_computer

aev_computer = init_aev_computer()
aev_dim = aev_computer.aev_length
print(aev_dim)

# %% In [4]: Prepare dataset & split. The print lacks this cell
energy_shifter = torchani.utils.EnergyShifter(None)  # completed
species_order = ['H', 'C', 'N', 'O']  # completed
dataset = torchani.data.load(DATA)  # completed
dataset = dataset.subtract_self_energies(energy_shifter, species_order)  # completed
dataset = dataset.species_to_indices(species_order).shuffle()  # completed
train_data, val_data, test_data = dataset.split(0.8, 0.1, 0.1)  # completed

# %% In [5]: Batching
batch_size = 8192
# use dataset.collate(...).cache() method to do batching
train_data_loader = train_data.collate(batch_size).cache()
val_data_loader = val_data.collate(batch_size).cache()
test_data_loader = test_data.collate(batch_size).cache()

# %% In [6]: Torchani API
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 128),
            nn.ReLU(),
            nn.Linear(128, 1)
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [7]
# train_data_batch = next(iter(train_data_loader))

for train_data_batch in train_data_loader:
    loss_func = nn.MSELoss()
    species = train_data_batch['species'].to(device)
    coords = train_data_batch['coordinates'].to(device)
    true_energies = train_data_batch['energies'].to(device).float()
    _, pred_energies = model((species, coords))
    loss = loss_func(true_energies, pred_energies)
    print(loss)
    break

# %% Checkpoint 2: In [8]
coords.shape[0]

train_epoch_loss = 0.0
loss_func = nn.MSELoss()
batch_loss = loss_func(true_energies, pred_energies)
batch_importance = coords.shape[0] / len(train_data)
train_epoch_loss += batch_loss.detach().cpu().item() * batch_importance
print(train_epoch_loss)

# %% In [9]
from torch.utils.data import DataLoader
import matplotlib.pyplot as plt

# %% In [10]
class ANITrainer:
    def __init__(self, model, batch_size, learning_rate, epoch, l2):
        self.model = model

        num_params = sum(item.numel() for item in model.parameters())
        print(f"{model.__class__.__name__} - Number of parameters: {num_params}")  # completed

        self.batch_size = batch_size
        self.optimizer = torch.optim.Adam(model.parameters(), learning_rate, weight_decay=l2)  # completed
        self.epoch = epoch

    def train(self, train_data, val_data, early_stop=True, draw_curve=True):
        self.model.train()

        # init data loader
        print("Initialize training data...")
        train_data_loader = train_data.collate(batch_size).cache()

        # definition of loss function: MSE is a good choice!
        loss_func = nn.MSELoss()

        # record epoch losses
        train_loss_list = []
        val_loss_list = []
        lowest_val_loss = np.inf

        for i in tqdm(range(self.epoch), leave=True):
            train_epoch_loss = 0.0
            for train_data_batch in train_data_loader:

                # compute energies
                species = train_data_batch['species'].to(device)
                coords = train_data_batch['coordinates'].to(device)
                true_energies = train_data_batch['energies'].to(device).float()  # completed
                _, pred_energies = model((species, coords))

                # compute loss
                batch_loss = loss_func(true_energies, pred_energies)

                # do a step
                self.optimizer.zero_grad()
                batch_loss.backward()
                self.optimizer.step()

                batch_importance = coords.shape[0] / len(train_data)
                train_epoch_loss += batch_loss.detach().cpu().item() * batch_importance  # completed

            # use the self.evaluate to get loss on the validation set
            if (i == (self.epoch - 1)):
                val_epoch_loss = self.evaluate(val_data, draw_plot = True)
            else:
                val_epoch_loss = self.evaluate(val_data)

            # append the losses
            train_loss_list.append(train_epoch_loss)
            val_loss_list.append(val_epoch_loss)

            if early_stop:
                if val_epoch_loss < lowest_val_loss:
                    lowest_val_loss = val_epoch_loss
                    weights = self.model.state_dict()

        if draw_curve:
            fig, ax = plt.subplots(1, 1, figsize=(5, 4), constrained_layout=True)  # completed
            ax.set_yscale("log")
            # Plot train loss and validation loss
            ax.plot(range(1, len(train_loss_list) + 1), train_loss_list, label='Train')  # completed
            ax.plot(range(1, len(val_loss_list) + 1), val_loss_list, label='Validation')  # completed
            ax.legend()
            ax.set_xlabel("# Batch")
            ax.set_ylabel("Loss")

        if early_stop:
            self.model.load_state_dict(weights)

        return train_loss_list, val_loss_list

    def evaluate(self, data, draw_plot=False):

        # init data loader
        data_loader = data.collate(batch_size).cache()

        # init loss function
        loss_func = nn.MSELoss()
        total_loss = 0.0

        if draw_plot:
            true_energies_all = []
            pred_energies_all = []

        with torch.no_grad():
            for batch_data in data_loader:

                # compute energies
                species = train_data_batch['species'].to(device)
                coords = train_data_batch['coordinates'].to(device)
                true_energies = train_data_batch['energies'].to(device).float()  # completed
                _, pred_energies = model((species, coords))

                # compute loss
                batch_loss = loss_func(true_energies, pred_energies)

                batch_importance = coords.shape[0] / len(data)
                total_loss += batch_loss.detach().cpu().item() * batch_importance  # completed

                if draw_plot:
                    true_energies_all.append(true_energies.detach().cpu().numpy())  # completed
                    pred_energies_all.append(pred_energies.detach().cpu().numpy())  # completed

        if draw_plot:
            true_energies_all = np.concatenate(true_energies_all)
            pred_energies_all = np.concatenate(pred_energies_all)
            # Report the mean absolute error
            # The unit of energies in the dataset is hartree
            # please convert it to kcal/mol when reporting the mean absolute error  # completed
            # 1 hartree = 627.5094738898777 kcal/mol
            # MAE = mean(|true - pred|)
            hartree2kcalmol = 627.5094738898777 # changed
            mae = np.mean(np.abs(true_energies_all * hartree2kcalmol - pred_energies_all * hartree2kcalmol))  # completed
            fig, ax = plt.subplots(1, 1, figsize=(5, 4), constrained_layout=True)  # completed
            ax.scatter(true_energies_all, pred_energies_all, label=f"MAE: {mae:.2f} kcal/mol")  # completed
            ax.set_xlabel("Ground Truth")
            ax.set_ylabel("Predicted")
            xmin, xmax = ax.get_xlim()
            ymin, ymax = ax.get_ylim()
            vmin, vmax = min(xmin, ymin), max(xmax, ymax)
            ax.set_xlim(vmin, vmax)
            ax.set_ylim(vmin, vmax)
            ax.plot([vmin, vmax], [vmin, vmax], color='red')
            ax.legend()
            #print(mae)
        return total_loss

# %% In [13]
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [14]
model = model
trainer = ANITrainer(model, learning_rate=1e-3, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [15]
trainer.evaluate(test_data, draw_plot = True)

# %% In [16]
print(train_losses)

# %% Checkpoint 3, iteration 1: In [17]
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [18]
model = model
# tried decreasing the learning rate
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [19]
trainer.evaluate(test_data, draw_plot = True)

# %% In [20]
print(train_losses)

# %% Iteration 2: In [27]
# change hidden layer to 200 neurons
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 200),
            nn.ReLU(),
            nn.Linear(200, 1)
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [28]
model = model
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [29]
trainer.evaluate(test_data, draw_plot = True)

# %% In [30]
print(train_losses)

# %% Iteration 3: In [31]
# change to 2 hidden layers
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 1)
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [32]
model = model
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [33]
trainer.evaluate(test_data, draw_plot = True)

# %% In [34]
print(train_losses)

# %% Iteration 4: In [16]
# change activation function
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 128),
            nn.Sigmoid(),
            nn.Linear(128, 1)
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [17]
model = model
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [18]
trainer.evaluate(test_data, draw_plot = True)

# %% In [19]
print(train_losses)

# %% Iteration 5: In [20]
# Add Dropout
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 128),
            nn.Dropout(p=0.15),
            nn.Sigmoid(),
            nn.Linear(128, 1),
            nn.Dropout(p=0.15),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [21]
model = model
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [22]
trainer.evaluate(test_data, draw_plot = True)

# %% In [23]
print(train_losses)

# %% Iteration 6: In [24]
# change to 2 hidden layers
class AtomicNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(384, 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 1)
        )

    def forward(self, x):
        return self.layers(x)

net_H = AtomicNet()
net_C = AtomicNet()
net_N = AtomicNet()
net_O = AtomicNet()

# ANI model requires a network for each atom type
# use torch.ANIModel() to compile atomic networks
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [25]
model = model
trainer = ANITrainer(model, learning_rate=1e-6, batch_size = 512, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)

# %% In [26]
trainer.evaluate(test_data, draw_plot = True)

# %% In [27]
print(train_losses)

# %% Checkpoint 4: In [21]. In the notebook's session net_H ... net_O were those of iteration 1 here
ani_net = torchani.ANIModel([net_H, net_C, net_N, net_O])
model = nn.Sequential(
    aev_computer,
    ani_net
).to(device)

# %% In [22]
model = model
# tried decreasing the learning rate
trainer = ANITrainer(model, learning_rate=1e-5, batch_size = 8192, epoch = EPOCHS, l2 = 1e-5)  # completed
train_losses, val_losses = trainer.train(train_data, val_data)
